"""One pass of Ray Data over the work: hands blocks to the replicas, counts their statuses, and reacts to failures.

A monitor thread checks a few times a second for the user's signals and for replicas that have given up, and sends the
message that makes the replicas return the blocks they hold. Nothing here touches a completion.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline import errors
from pipeline.errors import CAN_BE_RESUMED, Interrupted, PipelineError, RunError
from pipeline.generate import blocks as work_blocks
from pipeline.generate.blocks import BlockPlan
from pipeline.generate.cluster import Placement, remove_groups
from pipeline.generate.control import CLOSE, IDLE_POLL_S, POLL_S, STATE_S, STOP
from pipeline.generate.metrics import RunMetrics
from pipeline.generate.part import Part
from pipeline.generate.replica import Replica, ReplicaConfig
from pipeline.records import ReplicaEvent, ReplicaState
from pipeline.storage.filesystem import private_directory

if TYPE_CHECKING:
    from pipeline.generate.progress import Interruptions, Progress

logger = logging.getLogger(__name__)

COUNT_S = 5.0
"""Seconds between two counts of the cluster's nodes and replicas."""

LONGEST_SILENCE_S = 60.0
"""Seconds without a change of a replica's state after which it is reported: its machine may be lost."""

LONGEST_STRANDED_S = 300.0
"""Seconds that a pass waits for a node, when all of them are lost or hold replicas that have given up."""


class DispatchPass:
    """A pass over the rows that are left of the parts, with the replicas of a placement."""

    def __init__(
        self,
        parts: Sequence[Part],
        config: ReplicaConfig,
        placement: Placement,
        progress: Progress,
        interruptions: Interruptions,
        metrics: RunMetrics,
    ) -> None:
        self._parts, self._config, self._placement = parts, config, placement
        self._progress, self._interruptions, self._metrics = progress, interruptions, metrics
        self.num_replicas = placement.num_replicas
        self._num_rows = sum(part.num_left for part in parts)
        # A single replica has blocks so large that one which joins would wait for them.
        num_planned = max(2, placement.num_replicas) if placement.grows else placement.num_replicas
        self._block_plan = BlockPlan.of(self._num_rows, config.slots, num_planned)
        self._num_done = 0
        self._num_returned = 0
        self._num_given_up = 0
        self._reason_to_end: PipelineError | None = None
        self._next_count = 0.0
        self._stranded_since: float | None = None
        self._groups: list[Any] = []
        self._reported: set[str] = set()
        self._gave_up = 0
        self._next_update = 0.0
        self._states: dict[str, tuple[ReplicaState, float]] = {}
        self._has_stopped = False

    def run(self) -> int:
        """Generate the rows of the parts' work lists; return how many replicas gave up meanwhile.

        Raises:
            Interrupted: The user requested a stop, and the rows in flight are finished or the grace period is over.
            PipelineError: The run cannot continue.
            RuntimeError: No row was returned although no replica has given up.
        """
        blocks = self._statuses().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        ended = threading.Event()
        thread = threading.Thread(target=self._monitor, args=(ended,), name="monitor", daemon=True)
        try:
            thread.start()
            with closing(iter(blocks)) as iterator:  # Ray Data stops when its iterator is closed
                for block in iterator:
                    self._count(block)
        finally:
            ended.set()
            thread.join()
            with suppress(PipelineError, OSError):
                self._report()
            with suppress(PipelineError):  # however the pass ends, no replica waits for a message that never comes
                self._config.control.send(CLOSE)
            # On other machines the attempt logs stay in the temporary directory: a few bytes a row.
            with suppress(PipelineError):
                shutil.rmtree(private_directory(f"pipeline-{self._config.session}"), ignore_errors=True)
            remove_groups(self._groups)  # the next pass makes its own
        if self._reason_to_end is not None:
            raise self._reason_to_end
        if self._interruptions.count and self._num_done < self._num_rows:
            raise Interrupted(CAN_BE_RESUMED)
        if not self._num_done and not self._num_given_up:
            raise RuntimeError(f"{self._num_rows} rows went to the workers, none came back")
        return self._num_given_up

    def _statuses(self) -> Any:
        """Return the Ray data set of the rows' statuses, which generates the rows when it is read."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # one response may take longer than Ray Data's half an hour
        context.memory_usage_poll_interval_s = None  # otherwise each block has a thread that reads /proc for it
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # a full pool grows when GPUs are free
        context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0  # and never shrinks before the end
        plan, placement = self._block_plan, self._placement
        with warnings.catch_warnings():
            # Only a replica over several nodes needs the argument, and Ray Data has no replacement for it yet.
            warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
            return work_blocks.blocks(self._parts, plan.rows_per_block).map_batches(
                Replica,
                fn_constructor_args=(self._config,),
                batch_size=1,  # one of our blocks
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=placement.num_replicas,
                    max_size=None if placement.grows else placement.num_replicas,
                    max_tasks_in_flight_per_actor=plan.blocks_per_replica,
                    max_concurrent_calls_per_actor=plan.blocks_per_replica,
                ),
                **placement.actor_args(self._groups),
            )

    def _count(self, block: Any) -> None:
        """Count a block of statuses, and raise the error that ends the run."""
        columns = block.to_pydict()
        for kind, text in zip(columns["fatal_kind"], columns["fatal"], strict=True):
            if kind is not None:
                raise getattr(errors, kind)(text)
        if self._reason_to_end is not None:
            raise self._reason_to_end
        self._num_returned += len(columns["done"])
        num_done = sum(columns["done"])
        self._num_done += num_done
        expected = columns["expected_tokens"]
        expected_tokens = None if None in expected else sum(expected)
        self._progress.advance(num_done, sum(columns["failed"]), sum(columns["num_output_tokens"]), expected_tokens)
        self._export(columns)
        finished = [part for part, is_done in zip(columns["part"], columns["done"], strict=True) if is_done]
        for number, part in enumerate(self._parts):
            part.count(finished.count(number))

    def _export(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Count the finished rows of a block of statuses in the run's metrics."""
        for is_done, replica, failed, truncated, num_output_tokens in zip(
            *(columns[name] for name in ("done", "replica", "failed", "truncated", "num_output_tokens")), strict=True
        ):
            if is_done:
                self._metrics.count(replica, failed=failed, truncated=truncated, num_output_tokens=num_output_tokens)

    def _monitor(self, ended: threading.Event) -> None:
        """Check until the pass has ended; after a storage error the next check follows soon."""
        last_blocks = self.num_replicas * self._block_plan.rows_per_block
        while not ended.wait(IDLE_POLL_S if self._num_rows - self._num_returned <= last_blocks else POLL_S):
            try:
                if self._check():
                    return
                # Last: a report that cannot be read must not keep a message from the replicas.
                self._report()
                self._update()
            except Exception:  # if the thread ended, no message would end the pass
                logger.exception("Looking around has failed; looking again")

    def _report(self) -> None:
        """Pass on what has happened to the replicas; why the last one gave up is the error that ends the run."""
        for event in self._config.control.new_events(self._reported):
            self._gave_up += event.kind == "gave_up"
            is_last = event.kind == "gave_up" and self._gave_up >= self._placement.num_replicas
            self._metrics.report(event)
            self._progress.report(replace(event, line=None) if is_last else event)
            self._next_update = 0.0  # its state has changed with it

    def _update(self) -> None:
        """Pass on what the replicas are doing, now and then."""
        now = time.monotonic()
        if now < self._next_update:
            return
        self._next_update = now + STATE_S
        before, self._states = self._states, {}
        for state in self._config.control.states():
            known = before.get(state.replica)
            self._states[state.replica] = known if known is not None and known[0] == state else (state, now)
        found = [
            replace(state, phase="no response", phase_s=now - at, percent=None)
            if now - at > LONGEST_SILENCE_S and not state.is_final
            else state
            for state, at in self._states.values()
        ]
        self._metrics.update(found, self.num_replicas)
        self._progress.update(found, self._placement.num_replicas)

    def _check(self) -> bool:
        """Stop on the user's signal, close when all rows left are held back; return whether no check is left to do."""
        control = self._config.control
        if self._interruptions.count:
            control.send(STOP)
            if not self._has_stopped:
                self._has_stopped = True
                self._progress.stop()
            if control.all_drained():
                self._reason_to_end = Interrupted(CAN_BE_RESUMED)
                self._interruptions.end_now(self._reason_to_end)
            return self._reason_to_end is not None
        given_up = control.given_up()
        self._num_given_up = len(given_up)
        if self._num_given_up >= self.num_replicas:
            self._count_replicas()
        if self._num_given_up >= self.num_replicas:
            self._reason_to_end = getattr(errors, given_up[0].kind)(given_up[0].text)
            control.send(STOP)
            return True
        if self._is_stranded():
            gave_up = "".join(f"; {self._num_given_up} gave up, the first: {each.text}" for each in given_up[:1])
            self._reason_to_end = RunError(
                f"for {self._longest_stranded_s:.0f} s there has been no machine for a replica{gave_up}. "
                "Bring machines back and run the same run_id again"
            )
            self._interruptions.end_now(self._reason_to_end)
            return True
        num_left = self._num_rows - self._num_returned
        in_flight = self.num_replicas * self._block_plan.rows_per_replica
        if num_left <= in_flight and num_left == control.num_held():
            control.send(CLOSE)
            return True
        return False

    def _count_replicas(self) -> None:
        """Count the replicas on nodes that have joined since the pass began, and report them."""
        num_begun = self._config.control.num_begun() if self._placement.grows else 0
        if num_begun > self.num_replicas:
            num_new = num_begun - self.num_replicas
            line = f"more GPUs are free: {num_begun} replicas, {num_new} of them new"
            details = {"num_replicas": num_begun, "num_new": num_new}
            self._progress.report(ReplicaEvent(kind="replicas_joined", replica="", line=line, details=details))
            self.num_replicas = num_begun

    @property
    def _longest_stranded_s(self) -> float:
        return max(LONGEST_STRANDED_S, self._placement.wait_s)

    def _is_stranded(self) -> bool:
        """Return whether, for `_longest_stranded_s`, no node has been there for a replica that can generate."""
        import ray

        now = time.monotonic()
        if now < self._next_count:
            return self._stranded_since is not None and now - self._stranded_since > self._longest_stranded_s
        self._next_count = now + COUNT_S
        self._count_replicas()
        if self._placement.num_fitting(ray.nodes()) > self._num_given_up:
            self._stranded_since = None
        elif self._stranded_since is None:
            self._stranded_since = now
        return False
