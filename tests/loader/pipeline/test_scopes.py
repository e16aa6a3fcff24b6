"""Scopes of one pipeline that overlap: in threads, in asyncio tasks, in generators. None ends under another one."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from threading import Barrier, Lock
from typing import Any

import pytest
import torch
from overlays import generator, make_adapter, make_delta, make_projection

from robust_encoders import (
    AlreadyAttachedError,
    CompatibilityWarning,
    LoadedArtifact,
    OpenScopeError,
    RobustEncoder,
    StaleAttachmentError,
)
from robust_encoders.pipeline.attach import attachment_of
from robust_encoders.pipeline.composition import composition_of

MakeEncoder = Callable[..., RobustEncoder]
THREADS = 8


@pytest.fixture(autouse=True)
def no_surprises() -> Iterator[None]:
    """Any warning of this package that a test does not ask for fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompatibilityWarning)
        yield


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Return a function that runs another function in a second thread, always the same one."""
    with ThreadPoolExecutor(1, thread_name_prefix="second") as pool:
        yield lambda work, *arguments, **options: pool.submit(work, *arguments, **options).result(timeout=60)


def drawn(pipe: Any) -> torch.Tensor:
    images: torch.Tensor = pipe("a red circle", num_inference_steps=1, output_type="pt", generator=generator(3)).images
    return images


def state(pipe: Any) -> dict[str, Any]:
    """Everything that a scope could leave behind."""
    ours = {name: value for name, value in vars(pipe).items() if name.startswith("_robust_encoders")}
    return {"attributes": ours, "config": dict(pipe.config), "modules": pipe.components}


def labels(pipe: Any) -> tuple[str, ...]:
    """Names of everything that is attached to a pipeline."""
    record = attachment_of(pipe)
    return (*([record.label] if record else []), *(overlay.label for overlay in composition_of(pipe).overlays))


def kinds(pipe: Any, make_encoder: MakeEncoder) -> dict[str, LoadedArtifact]:
    return {
        "encoder": make_encoder(pipe),
        "adapter": make_adapter(pipe),
        "projection": make_projection(pipe, seed=3),
        "delta": make_delta(pipe),
    }


KINDS = ("encoder", "adapter", "projection", "delta")


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_thread_to_leave_takes_nothing_from_the_others(
    tiny_pipe: Any, make_encoder: MakeEncoder, kind: str
) -> None:
    artifact, untouched = kinds(tiny_pipe, make_encoder)[kind], state(tiny_pipe)
    plain = drawn(tiny_pipe)
    with artifact.attached(tiny_pipe):
        expected = drawn(tiny_pipe)
    all_inside, drawing, found = Barrier(THREADS), Lock(), []

    def request(index: int) -> None:
        with artifact.attached(tiny_pipe):
            all_inside.wait(timeout=60)
            with drawing:  # the first to have drawn leaves while the others still wait
                found.append(drawn(tiny_pipe))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(request, range(THREADS)))
    assert len(found) == THREADS
    assert all(torch.equal(picture, expected) for picture in found)
    assert not torch.equal(plain, expected)
    assert state(tiny_pipe) == untouched


def test_many_threads_come_and_go_and_none_is_ever_unprotected(tiny_pipe: Any, tiny_encoder: RobustEncoder) -> None:
    untouched = state(tiny_pipe)
    twins = [RobustEncoder(tiny_encoder.manifest, tiny_encoder.tensors, tiny_encoder.config) for _ in range(THREADS)]

    def work(index: int) -> None:
        for _ in range(30):
            with twins[index].attached(tiny_pipe):
                record = attachment_of(tiny_pipe)
                assert record is not None
                assert tiny_pipe.text_encoder is record.installed
                assert RobustEncoder.status(tiny_pipe).scopes >= 1
                assert attachment_of(tiny_pipe) is record

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert state(tiny_pipe) == untouched


PAIRS = [("encoder", "adapter"), ("adapter", "encoder"), ("adapter", "projection"), ("projection", "delta")]


@pytest.mark.parametrize("pair", [*PAIRS, *((kind, kind) for kind in KINDS)])
def test_in_one_thread_scopes_may_end_in_any_order(
    tiny_pipe: Any, make_encoder: MakeEncoder, pair: tuple[str, str]
) -> None:
    made, untouched = kinds(tiny_pipe, make_encoder), state(tiny_pipe)
    one, two = (made[kind].attached(tiny_pipe) for kind in pair)
    with ExitStack() as second:
        with one:
            second.enter_context(two)
            both, picture = labels(tiny_pipe), drawn(tiny_pipe)
            assert RobustEncoder.status(tiny_pipe).scopes == 2
        assert labels(tiny_pipe) == both
        assert torch.equal(drawn(tiny_pipe), picture)
        assert RobustEncoder.status(tiny_pipe).scopes == 1
    assert state(tiny_pipe) == untouched


@pytest.mark.parametrize("pair", PAIRS)
def test_scopes_of_forms_that_compose_nest(tiny_pipe: Any, make_encoder: MakeEncoder, pair: tuple[str, str]) -> None:
    made, untouched = kinds(tiny_pipe, make_encoder), state(tiny_pipe)
    one, two = (made[kind] for kind in pair)
    with one.attached(tiny_pipe):
        alone = drawn(tiny_pipe)
        with suppress(KeyError), two.attached(tiny_pipe), one.attached(tiny_pipe):
            assert set(labels(tiny_pipe)) == {one.label, two.label}
            raise KeyError
        assert labels(tiny_pipe) == (one.label,)
        assert torch.equal(drawn(tiny_pipe), alone)
    assert state(tiny_pipe) == untouched


def test_a_replacement_that_ends_late_is_undone_in_order(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    untouched = state(tiny_pipe)
    one, two = make_encoder(tiny_pipe, seed=1), make_encoder(tiny_pipe, seed=2, name="square")
    with ExitStack() as second:
        with one.attached(tiny_pipe):
            second.enter_context(two.attached(tiny_pipe, replace=True))
            with one.attached(tiny_pipe, replace=True):
                assert labels(tiny_pipe) == (one.label,)
            assert labels(tiny_pipe) == (two.label,)
        assert labels(tiny_pipe) == (two.label,)
    assert state(tiny_pipe) == untouched


def test_overlays_that_a_block_replaced_come_back(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    made = kinds(tiny_pipe, make_encoder)
    made["adapter"].attach(tiny_pipe)
    before = drawn(tiny_pipe)
    with made["projection"].attached(tiny_pipe, replace=True):
        assert labels(tiny_pipe) == (made["projection"].label,)
    assert labels(tiny_pipe) == (made["adapter"].label,)
    assert torch.equal(drawn(tiny_pipe), before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_attached_before_the_scope_stays(
    tiny_pipe: Any, make_encoder: MakeEncoder, kind: str, elsewhere: Callable[..., Any]
) -> None:
    artifact = kinds(tiny_pipe, make_encoder)[kind]
    artifact.attach(tiny_pipe)
    before = state(tiny_pipe)

    def nested() -> None:
        with artifact.attached(tiny_pipe), artifact.attached(tiny_pipe):
            pass

    with artifact.attached(tiny_pipe):
        elsewhere(nested)
        assert state(tiny_pipe)["modules"] == before["modules"]
    assert state(tiny_pipe) == before
    artifact.detach(tiny_pipe)


def test_overlays_that_are_attached_inside_a_block_stay(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    made = kinds(tiny_pipe, make_encoder)
    made["adapter"].attach(tiny_pipe)
    for outer in ("encoder", "adapter", "delta"):
        with made[outer].attached(tiny_pipe):
            made["projection" if outer != "encoder" else "delta"].attach(tiny_pipe)
        assert len(labels(tiny_pipe)) == 2, outer
        made["projection" if outer != "encoder" else "delta"].detach(tiny_pipe)
        assert labels(tiny_pipe) == (made["adapter"].label,)


def test_overlays_that_leave_no_room_for_those_before_the_block_are_named(tiny_pipe: Any) -> None:
    one, two = make_delta(tiny_pipe, "circle"), make_delta(tiny_pipe, "square", seed=5)
    projection = make_projection(tiny_pipe)
    one.attach(tiny_pipe)
    with (
        pytest.raises(StaleAttachmentError, match="'square' erased by esd attached inside it, and left all as it is"),
        projection.attached(tiny_pipe, replace=True),
    ):
        two.attach(tiny_pipe)
    assert two.label in labels(tiny_pipe)
    assert RobustEncoder.status(tiny_pipe).scopes == 0


def changes(artifact: LoadedArtifact, pipe: Any) -> dict[str, Callable[[], Any]]:
    """Return everything that another thread might do, as functions."""
    made: dict[str, Callable[[], Any]] = {
        "attach": lambda: artifact.attach(pipe),
        "replace": lambda: artifact.attach(pipe, replace=True),
        "scope": artifact.attached(pipe).__enter__,
        "replacing scope": artifact.attached(pipe, replace=True).__enter__,
    }
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["attach", "replace", "scope", "replacing scope"])
def test_something_else_is_refused_while_a_scope_is_open_in_another_thread(
    tiny_pipe: Any, make_encoder: MakeEncoder, kind: str, change: str, elsewhere: Callable[..., Any]
) -> None:
    inside = make_adapter(tiny_pipe, "star", seed=7)
    other, untouched = kinds(tiny_pipe, make_encoder)[kind], state(tiny_pipe)
    with inside.attached(tiny_pipe):
        before = state(tiny_pipe)
        with pytest.raises(OpenScopeError) as error:
            elsewhere(changes(other, tiny_pipe)[change])
        for part in (inside.label, other.label, "thread MainThread", "attach once, when the program starts"):
            assert part in str(error.value)
        assert isinstance(error.value, AlreadyAttachedError)
        assert state(tiny_pipe) == before
        elsewhere(other.detach, tiny_pipe)  # nothing to detach
        assert state(tiny_pipe) == before
    assert state(tiny_pipe) == untouched
    elsewhere(other.attach, tiny_pipe)


def test_the_same_artifact_is_attached_and_detached_by_no_other_thread(
    tiny_pipe: Any, make_encoder: MakeEncoder, elsewhere: Callable[..., Any]
) -> None:
    for kind, artifact in kinds(tiny_pipe, make_encoder).items():
        with artifact.attached(tiny_pipe):
            for change in (artifact.attach, artifact.detach):
                with pytest.raises(OpenScopeError, match=f"before {change.__name__}ing"):
                    elsewhere(change, tiny_pipe)
            assert labels(tiny_pipe) == (artifact.label,), kind
        elsewhere(artifact.attach, tiny_pipe)
        elsewhere(artifact.detach, tiny_pipe)


def test_settings_are_changed_by_no_other_thread(tiny_pipe: Any, elsewhere: Callable[..., Any]) -> None:
    adapter = make_adapter(tiny_pipe)
    with make_projection(tiny_pipe).attached(tiny_pipe):
        adapter.attach(tiny_pipe)
        before = drawn(tiny_pipe)
        with pytest.raises(OpenScopeError, match="before changing"):
            elsewhere(adapter.set_scale, tiny_pipe, 0.5)
        with pytest.raises(OpenScopeError, match="before fusing"):
            elsewhere(adapter.fuse, tiny_pipe)
        assert torch.equal(drawn(tiny_pipe), before)
    elsewhere(adapter.set_scale, tiny_pipe, 0.5)


def test_a_scope_that_would_remove_others_is_no_scope_of_the_same(
    tiny_pipe: Any, elsewhere: Callable[..., Any]
) -> None:
    adapter = make_adapter(tiny_pipe)
    make_projection(tiny_pipe).attach(tiny_pipe)
    with adapter.attached(tiny_pipe):
        with pytest.raises(OpenScopeError, match="before entering a scope"):
            elsewhere(adapter.attached(tiny_pipe, replace=True).__enter__)
        assert len(labels(tiny_pipe)) == 2


def test_a_second_scope_within_the_first_is_refused_while_another_thread_is_in_the_first(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, elsewhere: Callable[..., Any]
) -> None:
    untouched, other = state(tiny_pipe), tiny_encoder.attached(tiny_pipe)
    with tiny_encoder.attached(tiny_pipe):
        elsewhere(other.__enter__)
        with pytest.raises(OpenScopeError, match="in thread second"), make_adapter(tiny_pipe).attached(tiny_pipe):
            pytest.fail("expected the scope to be refused")
        with pytest.raises(OpenScopeError, match="in thread second"):
            tiny_encoder.detach(tiny_pipe)
    assert labels(tiny_pipe) == (tiny_encoder.label,)
    assert RobustEncoder.status(tiny_pipe).scopes == 1
    elsewhere(other.__exit__, None, None, None)
    assert state(tiny_pipe) == untouched


def test_many_open_scopes_are_named_in_short(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, elsewhere: Callable[..., Any]
) -> None:
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(tiny_encoder.attached(tiny_pipe))
        with pytest.raises(OpenScopeError, match=r"MainThread and 3 more; attach once") as error:
            elsewhere(tiny_encoder.detach, tiny_pipe)
        assert str(error.value).count("MainThread") == 3


def test_a_scope_that_is_left_in_another_thread_counts_as_left(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, elsewhere: Callable[..., Any]
) -> None:
    untouched = state(tiny_pipe)
    first, second = tiny_encoder.attached(tiny_pipe), tiny_encoder.attached(tiny_pipe)
    first.__enter__()
    elsewhere(second.__enter__)
    elsewhere(first.__exit__, None, None, None)
    assert RobustEncoder.status(tiny_pipe).scopes == 1
    second.__exit__(None, None, None)
    assert state(tiny_pipe) == untouched


def test_one_scope_object_is_entered_again_nested_and_by_several_threads(
    tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    untouched, scope, all_inside = state(tiny_pipe), tiny_encoder.attached(tiny_pipe), Barrier(THREADS)
    for _ in range(2):
        with scope, scope as pipe:
            assert pipe is tiny_pipe
            assert RobustEncoder.status(pipe).scopes == 2

    @scope
    def work(index: int) -> int:
        all_inside.wait(timeout=60)
        assert labels(tiny_pipe) == (tiny_encoder.label,)
        return RobustEncoder.status(tiny_pipe).scopes

    with ThreadPoolExecutor(THREADS) as pool:
        assert max(pool.map(work, range(THREADS))) == THREADS
    assert state(tiny_pipe) == untouched


def test_tasks_of_one_thread_are_to_each_other_like_threads(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    made, untouched = kinds(tiny_pipe, make_encoder), state(tiny_pipe)
    encoder, adapter = made["encoder"], made["adapter"]

    async def request(artifact: LoadedArtifact, seconds: float) -> torch.Tensor:
        with artifact.attached(tiny_pipe):
            await asyncio.sleep(seconds)
            return await asyncio.to_thread(drawn, tiny_pipe)

    async def serve() -> None:
        first = asyncio.create_task(request(encoder, 0.05), name="first")
        again = asyncio.create_task(request(encoder, 0.0))
        await asyncio.sleep(0)
        with pytest.raises(OpenScopeError, match="in task first of thread MainThread"):
            await request(adapter, 0.0)
        await again
        picture = await first
        with encoder.attached(tiny_pipe):
            assert torch.equal(drawn(tiny_pipe), picture)

    asyncio.run(serve())
    assert state(tiny_pipe) == untouched


def test_generators_overlap_and_forgotten_ones_end_their_scopes(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    made, untouched = kinds(tiny_pipe, make_encoder), state(tiny_pipe)

    def pictures(artifact: LoadedArtifact) -> Iterator[tuple[str, ...]]:
        with artifact.attached(tiny_pipe):
            yield labels(tiny_pipe)
            yield labels(tiny_pipe)

    one, two = pictures(made["encoder"]), pictures(made["adapter"])
    next(one)
    assert len(next(two)) == 2
    del one
    gc.collect()
    assert len(next(two)) == 2
    del two
    gc.collect()
    assert state(tiny_pipe) == untouched


def test_a_scope_that_ends_in_the_middle_of_a_change_is_undone_after_it(
    tiny_pipe: Any, make_encoder: MakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kinds(tiny_pipe, make_encoder)
    forgotten = made["adapter"].attached(tiny_pipe)
    forgotten.__enter__()
    real = type(tiny_pipe).register_modules

    def collecting(pipe: Any, **modules: Any) -> None:
        monkeypatch.undo()
        forgotten.__exit__(None, None, None)  # as the garbage collector ends a generator: anywhere
        real(pipe, **modules)

    monkeypatch.setattr(type(tiny_pipe), "register_modules", collecting)
    made["projection"].attach(tiny_pipe)
    assert labels(tiny_pipe) == (made["projection"].label,)
    made["projection"].detach(tiny_pipe)
    assert composition_of(tiny_pipe).overlays == ()


def test_a_failure_on_entering_opens_no_scope(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    untouched = state(tiny_pipe)

    def breaking(pipe: Any, **modules: Any) -> None:
        monkeypatch.undo()
        raise OSError("no space")

    monkeypatch.setattr(type(tiny_pipe), "register_modules", breaking)
    with pytest.raises(OSError, match="no space"), tiny_encoder.attached(tiny_pipe):
        pytest.fail("expected an error on entering")
    assert state(tiny_pipe) == untouched


def test_a_scope_that_cannot_be_undone_is_closed_and_those_below_it_are_undone(
    tiny_pipe: Any, make_encoder: MakeEncoder
) -> None:
    made = kinds(tiny_pipe, make_encoder)
    encoder, adapter = made["encoder"], made["adapter"]
    original = tiny_pipe.text_encoder
    first, second = encoder.attached(tiny_pipe), adapter.attached(tiny_pipe)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    ours, tiny_pipe.unet = tiny_pipe.unet, copy.deepcopy(tiny_pipe.unet)
    with pytest.raises(StaleAttachmentError, match="put there since"):
        second.__exit__(None, None, None)
    assert RobustEncoder.status(tiny_pipe).scopes == 0
    tiny_pipe.unet = ours
    adapter.detach(tiny_pipe)
    encoder.detach(tiny_pipe)
    assert tiny_pipe.text_encoder is original


def test_the_error_of_a_block_is_not_hidden_by_one_on_leaving(tiny_pipe: Any, make_encoder: MakeEncoder) -> None:
    for artifact in kinds(tiny_pipe, make_encoder).values():
        scope = artifact.attached(tiny_pipe)
        with scope:
            ours = {name: getattr(tiny_pipe, name) for name in ("text_encoder", "unet")}
            scope.__enter__()
        for name, part in ours.items():
            setattr(tiny_pipe, name, copy.deepcopy(part))
        with pytest.warns(CompatibilityWarning, match="stays attached: expected"):
            scope.__exit__(KeyError, KeyError("their own"), None)
        for name, part in ours.items():
            setattr(tiny_pipe, name, part)
        artifact.detach(tiny_pipe)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda pipe: pickle.loads(pickle.dumps(pipe)),
    "from_pipe": lambda pipe: type(pipe).from_pipe(pipe),
}


@pytest.mark.parametrize("way", COPIES)
def test_pipelines_made_of_one_in_a_scope_count_on_their_own(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, way: str, elsewhere: Callable[..., Any]
) -> None:
    untouched = state(tiny_pipe)
    # Of a pipeline by from_pipe nobody knows which encoder it had before, so attaching warns.
    warnings.simplefilter("ignore" if way == "from_pipe" else "error", CompatibilityWarning)
    with tiny_encoder.attached(tiny_pipe):
        made = COPIES[way](tiny_pipe)
        assert RobustEncoder.status(made).scopes == 0
        assert RobustEncoder.status(made).attached
        elsewhere(tiny_encoder.attach, made)  # no scope is open on it
        with tiny_encoder.attached(made):
            assert RobustEncoder.status(made).scopes == 1
            assert RobustEncoder.status(tiny_pipe).scopes == 1
        assert RobustEncoder.status(tiny_pipe).scopes == 1
        assert labels(tiny_pipe) == (tiny_encoder.label,)
    assert state(tiny_pipe) == untouched
    assert RobustEncoder.status(made).attached


def test_a_pipeline_with_shared_components_counts_on_its_own(
    tiny_pipe: Any, make_encoder: MakeEncoder, elsewhere: Callable[..., Any]
) -> None:
    made = kinds(tiny_pipe, make_encoder)
    sibling = type(tiny_pipe)(**tiny_pipe.components, requires_safety_checker=False)
    plain = drawn(sibling)
    with made["encoder"].attached(tiny_pipe), made["adapter"].attached(tiny_pipe):
        assert RobustEncoder.status(sibling).scopes == 0
        assert torch.equal(drawn(sibling), plain)
        elsewhere(made["projection"].attach, sibling)
        assert not torch.equal(drawn(sibling), plain)
    assert labels(sibling) == (made["projection"].label,)
    assert labels(tiny_pipe) == ()


def test_what_is_moved_and_cast_inside_overlapping_scopes_is_so_afterwards(
    tiny_pipe: Any, make_encoder: MakeEncoder
) -> None:
    made, original = kinds(tiny_pipe, make_encoder), tiny_pipe.text_encoder
    with ExitStack() as second, made["encoder"].attached(tiny_pipe):
        second.enter_context(made["adapter"].attached(tiny_pipe))
        tiny_pipe.to(torch.float64)
    assert tiny_pipe.text_encoder is original
    assert {tiny_pipe.unet.dtype, original.dtype} == {torch.float64}


def test_a_pipeline_is_freed_with_its_scopes(make_pipe: Any, make_encoder: MakeEncoder) -> None:
    pipe = make_pipe()
    encoder, reference = make_encoder(pipe), weakref.ref(pipe)
    with encoder.attached(pipe):
        pass
    encoder.attached(pipe).__enter__()  # never left
    del pipe
    assert reference() is None


def test_one_of_two_attachments_at_once_wins_and_the_other_changes_nothing(
    make_pipe: Any, make_encoder: MakeEncoder
) -> None:
    base = make_pipe()
    encoders = [make_encoder(base, seed=seed + 1, name=f"concept {seed}") for seed in range(THREADS)]
    for _ in range(5):
        pipe, start = make_pipe(), Barrier(THREADS)

        def race(index: int, pipe: Any = pipe, start: Barrier = start) -> str:
            start.wait(timeout=60)
            try:
                return encoders[index].attach(pipe) and encoders[index].label
            except AlreadyAttachedError:
                return ""

        with ThreadPoolExecutor(THREADS) as pool:
            (winner,) = filter(None, pool.map(race, range(THREADS)))
        assert labels(pipe) == (winner,)
        assert RobustEncoder.status(pipe).intact
        next(one for one in encoders if one.label == winner).detach(pipe)
        assert labels(pipe) == ()


def test_overlays_that_are_attached_at_once_all_stay(tiny_pipe: Any) -> None:
    untouched = state(tiny_pipe)
    overlays, start = [make_adapter(tiny_pipe, f"concept {seed}", seed=seed) for seed in range(4)], Barrier(4)

    def race(index: int) -> None:
        start.wait(timeout=60)
        overlays[index].attach(tiny_pipe)

    def leave(index: int) -> None:
        start.wait(timeout=60)
        overlays[index].detach(tiny_pipe)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(race, range(4)))
        assert sorted(labels(tiny_pipe)) == sorted(overlay.label for overlay in overlays)
        list(pool.map(leave, range(4)))
    assert state(tiny_pipe) == untouched


def test_no_lock_is_held_while_pictures_are_drawn(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, elsewhere: Callable[..., Any]
) -> None:
    @contextmanager
    def inside() -> Iterator[None]:
        with tiny_encoder.attached(tiny_pipe):
            yield

    def asked() -> int:
        with inside():
            return RobustEncoder.status(tiny_pipe).scopes

    counts = []

    def between_steps(pipe: Any, step: int, t: int, values: dict[str, Any]) -> dict[str, Any]:
        counts.append(elsewhere(asked))
        return values

    tiny_encoder.attached(tiny_pipe)  # never entered: no scope
    with tiny_encoder.attached(tiny_pipe):
        tiny_pipe(
            "a red circle",
            num_inference_steps=1,
            output_type="np",
            callback_on_step_end=between_steps,
        )
    assert counts == [2]


def test_entering_and_leaving_a_scope_that_is_open_exchanges_no_component(
    tiny_pipe: Any, make_encoder: MakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A component that is exchanged and put back, even for a moment, is missing from pictures of other threads."""
    made = kinds(tiny_pipe, make_encoder)
    made["encoder"].attach(tiny_pipe)
    made["adapter"].attach(tiny_pipe)

    def exchanged(pipe: Any, **modules: Any) -> None:
        pytest.fail(f"expected no exchange, found one of {list(modules)}")

    monkeypatch.setattr(type(tiny_pipe), "register_modules", exchanged)
    for name in ("encoder", "adapter"):
        with made[name].attached(tiny_pipe):
            made[name].attach(tiny_pipe)


@pytest.mark.parametrize("name", ["encoder", "adapter"])
def test_a_component_that_was_replaced_is_noticed_on_entering(
    tiny_pipe: Any, make_encoder: MakeEncoder, name: str
) -> None:
    artifact, parts = kinds(tiny_pipe, make_encoder)[name], dict(tiny_pipe.components)
    artifact.attach(tiny_pipe)
    tiny_pipe.text_encoder, tiny_pipe.unet = parts["text_encoder"], parts["unet"]
    for enter in (artifact.attached(tiny_pipe).__enter__, lambda: artifact.attach(tiny_pipe)):
        with pytest.raises(StaleAttachmentError, match="put there since"):
            enter()
