"""Training and evaluation of robust encoders: methods, attacks, metrics, recipes. Needs the extra ``train``."""
