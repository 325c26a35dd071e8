"""What a training is asked for: its folder, its settings, and what it starts from."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

from xpnet.data import Dataset, Task
from xpnet.run.config import Config, StartConfig
from xpnet.run.config_sources import load_config
from xpnet.run.origin import Origin, find_origin, given_keys
from xpnet.run.resuming import consistent
from xpnet.run.run_folder import RunFolder
from xpnet.run.splits import Data
from xpnet.run.streamed_splits import with_stream

__all__ = ["Asked"]

Settings = Iterable[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """The source and settings of a training, those of its folder among them."""

    source: str | Path | Config
    settings: Settings
    recipe: str | None
    folder: RunFolder
    resume: bool
    start: StartConfig | None
    origin: Origin | None  # what it starts from

    @classmethod
    def of(
        cls, source: Any, settings: Settings, recipe: str | None, folder: RunFolder, *, resume: bool
    ) -> Self:
        """Read the folder, if it is resumed, and what the training starts from."""
        if source is None and resume and folder.config_path.exists():
            source = folder.config()
        source = source or "digits"
        start = load_config(source, settings, recipe=recipe).start
        if start is None and resume and folder.config_path.exists():
            start = folder.config().start
        origin = find_origin(start, folder, resume=resume)
        return cls(source, settings, recipe, folder, resume, start, origin)

    def config(
        self,
        report: Callable[[str], None],
        data: Data | None = None,
        rows: int | None = None,
    ) -> Config:
        """Return the config as far as it is known: before the data is read, or after it.

        Raises ConfigError, CheckpointError where the folder cannot be trained in with it.
        """
        folder, origin, resume = self.folder, self.origin, self.resume
        task = None if data is None else data.task
        if task is None and resume and folder.config_path.exists():
            task = cast(Task, folder.config().data.task)
        config = load_config(
            self.source, self.settings, report, recipe=self.recipe, task=task, rows=rows
        )
        config = replace(config, start=self.start)
        if origin is not None:
            given = given_keys(self.settings)
            config = origin.config(config, given)
            if data is not None:
                classes = cast(Dataset, data.whole).classes or ()  # not a stream's, with an origin
                config = replace(config, loss=origin.loss(config, given, len(classes)))
        # What depends on the rows is compared with that of an earlier run once they are read.
        return with_stream(consistent(config, folder, resume=resume, whole=rows is not None))
