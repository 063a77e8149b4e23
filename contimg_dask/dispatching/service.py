"""Put a dispatcher together from settings, and run it: what the command and the daemon share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from contimg_dask.catalogue.opening import Catalogue
from contimg_dask.dispatching.connection import Connection
from contimg_dask.dispatching.dispatcher import Dispatcher
from contimg_dask.dispatching.leasing import LeaseKeeper
from contimg_dask.dispatching.outcomes import Outcomes
from contimg_dask.dispatching.preparing import Preparer
from contimg_dask.dispatching.reading import JobReader
from contimg_dask.dispatching.retrying import retry_delays
from contimg_dask.event_log import EventLog, LoggedListener
from contimg_dask.hand_over import HandOver, check_command
from contimg_dask.model import ConversionPlan
from contimg_dask.saying import Say
from contimg_dask.settings import Settings


def run_dispatcher(
    catalogue: Catalogue,
    settings: Settings,
    *,
    stop_asked: Callable[[], int],
    stop_timeout_s: float,
    on_line: Say,
    on_turn: Callable[[], None] = lambda: None,
) -> None:
    """Convert what is queued until asked to stop.

    Parameters
    ----------
    catalogue
        Whose queue.
    settings
        The cluster, groups per node, event log, hand-over, and how long is waited for what; all
        else comes with each job.
    stop_asked
        How often the process was asked to stop.
    stop_timeout_s
        How long running groups may take to end then [s].
    on_line
        Is told what operators want to know.
    on_turn
        Called every few seconds at least, while all is well.

    Raises
    ------
    LeaseHeldError
        Another dispatcher works on this catalogue.
    LeaseLostError
        Another one may have taken over meanwhile.
    CatalogueError, UsageError
        The catalogue, the event log or the hand-over command cannot be used.
    """
    check_command(settings.on_published)
    with ExitStack() as stack:
        log = stack.enter_context(EventLog(settings.event_log, on_line))
        hand_over = stack.enter_context(
            HandOver(settings.on_published, settings.on_published_timeout_s, log, on_line)
        )
        delays_s = retry_delays(settings.retry_delay_s)
        outcomes = Outcomes(catalogue, log, hand_over, on_line, delays_s)
        connection = Connection(settings, LoggedListener(_Unheard(), log), on_line)
        dispatcher = Dispatcher(
            catalogue,
            settings,
            outcomes=outcomes,
            preparer=Preparer(catalogue, outcomes, on_line),
            reader=JobReader(catalogue, on_line, outcomes.tell, connection.discover),
            connection=connection,
            on_line=on_line,
            on_turn=on_turn,
        )
        lease = stack.enter_context(
            LeaseKeeper(catalogue, dispatcher.facts, settings.dispatcher_lease_s)
        )
        on_line(f"dispatching {catalogue.url_shown}", action="dispatcher-started")
        log.add("dispatcher-started", catalogue=catalogue.url_shown)
        dispatcher.run(lease, stop_asked, stop_timeout_s)
        hand_over.wait()
        log.add("dispatcher-stopped")


class _Unheard:
    """A listener that does nothing: the catalogue tells what runs."""

    def group_started(self, plan: ConversionPlan) -> None:
        """Say nothing."""

    def step_done(self, plan: ConversionPlan, name: str) -> None:
        """Say nothing."""

    def group_done(self, plan: ConversionPlan) -> None:
        """Say nothing."""
