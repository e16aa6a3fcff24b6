"""The gradient loop."""
