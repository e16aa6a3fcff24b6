"""Test files that coverage does not trace: they are long, and shorter tests run the same lines.

Tracing adds a third to a test's time. ``make test COVERAGE=yes`` fails if the traced tests alone cover too little.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tree import ROOT

# Files of long tests, and of tests of the tree; shorter tests run the same lines.
UNTRACED = (
    "tests/loader/artifact/test_killed.py",
    "tests/loader/artifact/test_mutations.py",
    "tests/loader/artifact/test_pickle_mutations.py",
    "tests/loader/cli/test_surroundings.py",
    "tests/loader/hub/test_secrets.py",
    "tests/loader/pipeline/test_pipeline_classes.py",
    "tests/loader/pipeline/test_pipeline_methods.py",
    "tests/loader/pipeline/test_references.py",
    "tests/loader/pipeline/test_threads.py",
    "tests/project/test_contributing.py",
    "tests/project/test_eval_unlearn.py",
    "tests/project/test_examples.py",
    "tests/project/test_packaging.py",
    "tests/project/test_pipx.py",
    "tests/project/test_project.py",
    "tests/project/test_remedies.py",
    "tests/project/test_remedies_beginning.py",
    "tests/project/test_remedies_evaluation.py",
    "tests/project/test_remedies_loader.py",
    "tests/project/test_remedies_settings.py",
    "tests/project/test_remedies_training.py",
    "tests/project/test_rooms.py",
    "tests/project/test_site.py",
    "tests/project/test_studies.py",
    "tests/project/test_texts.py",
    "tests/project/test_types.py",
    "tests/training/attacks/common/test_ddim_inversion.py",
    "tests/training/attacks/test_latent_inversion.py",
    "tests/training/cli/test_signs_of_life.py",
    "tests/training/cli/test_train_config.py",
    "tests/training/diffusion/test_load.py",
    "tests/training/diffusion/test_memory.py",
    "tests/training/diffusion/test_target.py",
    "tests/training/evaluation/benchmarks/test_shapes_probes.py",
    "tests/training/evaluation/benchmarks/test_stable_diffusion.py",
    "tests/training/evaluation/sanity/test_checks.py",
    "tests/training/evaluation/test_aggregate.py",
    "tests/training/evaluation/test_evaluate.py",
    "tests/training/evaluation/test_set_probes.py",
    "tests/training/methods/test_ablation.py",
    "tests/training/methods/test_advunlearn.py",
    "tests/training/methods/test_doco.py",
    "tests/training/methods/test_full_size.py",
    "tests/training/methods/test_methods_full_size.py",
    "tests/training/methods/test_race.py",
    "tests/training/methods/test_spm.py",
    "tests/training/objectives/test_outliers.py",
    "tests/training/objectives/test_unet_work.py",
    "tests/training/overlays/test_overlay_costs.py",
    "tests/training/recipes/test_loss_traces.py",
    "tests/training/recipes/test_reproduce.py",
    "tests/training/reports/html/test_page.py",
    "tests/training/test_distributed.py",
    "tests/training/test_trackers.py",
    "tests/training/trainer/test_killed_training.py",
    "tests/training/trainer/test_several_processes.py",
    "tests/training/trajectories/test_agreement.py",
    "tests/training/worlds/pretrain/test_build.py",
    "tests/training/worlds/shapes/test_base.py",
)


def long_files() -> frozenset[Path]:
    """Return the files of long tests."""
    return frozenset(ROOT / name for name in UNTRACED)


@contextmanager
def tracing_stopped() -> Iterator[None]:
    """Stop coverage for the length of a block, if it is running at all."""
    coverage: Any = sys.modules.get("coverage")  # not in the environment of the oldest versions
    running = None if coverage is None else coverage.Coverage.current()
    if running is None:
        yield
        return
    running.stop()
    try:
        yield
    finally:
        running.start()
