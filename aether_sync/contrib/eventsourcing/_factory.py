"""``Factory``: makes recorders as the environment of an application says."""

from typing import TypeVar

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    InfrastructureFactoryError,
    ProcessRecorder,
)
from eventsourcing.utils import Environment, EnvType, TopicError, resolve_topic

from ._datastore import Datastore
from ._recorders import (
    AetherAggregateRecorder,
    AetherApplicationRecorder,
    AetherProcessRecorder,
    AetherSnapshotRecorder,
    AetherTrackingRecorder,
)

__all__ = ["Factory"]

T = TypeVar("T")


class Factory(InfrastructureFactory[AetherTrackingRecorder]):
    """Makes recorders, which share the connection of the factory. It does not connect before the first use.

    Args:
        env: The environment of an application. A setting is looked up with the name of the application before it
            first: ``SHOP_NATS_URL``, then ``NATS_URL``.

    Raises:
        OSError: A setting is wrong; the error names the variable and the value, unless that is a secret.
    """

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        self.datastore = Datastore(self.env)

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """Make a recorder of aggregates, or of their snapshots.

        Args:
            purpose: ``"events"``, or ``"snapshots"``, or another: each has a stream of its own.
        """
        kind = AetherSnapshotRecorder if purpose == "snapshots" else AetherAggregateRecorder
        return kind(self.datastore, purpose)

    def application_recorder(self) -> ApplicationRecorder:
        """Make a recorder of an application: of the class that ``APPLICATION_RECORDER_TOPIC`` names, if it is set."""
        return self._class(self.APPLICATION_RECORDER_TOPIC, AetherApplicationRecorder)(self.datastore)

    def tracking_recorder(
        self, tracking_recorder_class: type[AetherTrackingRecorder] | None = None
    ) -> AetherTrackingRecorder:
        """Make a recorder of what was processed, such as the view of a projection.

        Args:
            tracking_recorder_class: Its class; by default the one that ``TRACKING_RECORDER_TOPIC`` names.

        Raises:
            InfrastructureFactoryError: The class is one of another persistence module.
        """
        if tracking_recorder_class is None:
            tracking_recorder_class = self._class(self.TRACKING_RECORDER_TOPIC, AetherTrackingRecorder)
        elif not issubclass(tracking_recorder_class, AetherTrackingRecorder):
            name = tracking_recorder_class.__qualname__
            module = self.env.create_keys(self.PERSISTENCE_MODULE)[0]
            raise InfrastructureFactoryError(
                f"{name} is no AetherTrackingRecorder. A view that is kept elsewhere has a persistence module of its "
                f"own: set {module} to that"
            )
        return tracking_recorder_class(self.datastore)

    def process_recorder(self) -> ProcessRecorder:
        """Make a recorder of a process: of the class that ``PROCESS_RECORDER_TOPIC`` names, if it is set."""
        return self._class(self.PROCESS_RECORDER_TOPIC, AetherProcessRecorder)(self.datastore)

    def _class(self, variable: str, base: type[T]) -> type[T]:
        """Return the class that a variable names."""
        topic = self.env.get(variable)
        if not topic:
            return base
        try:
            found: object = resolve_topic(topic)
        except TopicError as error:
            raise OSError(f"{variable}: {topic!r} cannot be imported: {error}") from error
        if isinstance(found, type) and issubclass(found, base):
            return found
        raise OSError(f"{variable}: {topic!r} is no {base.__name__}")

    def close(self) -> None:
        """End all subscriptions, and close the connection. Any thread may call it, repeatedly."""
        self.datastore.close()
