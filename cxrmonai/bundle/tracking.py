"""What MONAI's option `--tracking mlflow` needs to work with our trainers."""

from __future__ import annotations

from cxrmonai.bundle.root import running_workflow

# MONAI's settings take the loss out of a list of decollated items; of a batch, which our trainers keep whole, the same
# expression makes a tuple, and MLflow refuses that.
_THEIRS = "$monai.handlers.from_engine(['loss'], first=True)"
_OURS = "$lambda output: output['loss']"


def mend_tracking() -> None:
    """Lets the MLflow handler that MONAI put behind the trainer's find the loss; does nothing without one."""
    workflow = running_workflow()
    handlers = None if workflow is None else workflow.parser.get("train::handlers")
    for number, handler in enumerate(handlers or []):
        if isinstance(handler, dict) and handler.get("output_transform") == _THEIRS:
            handler["output_transform"] = _OURS
            item = workflow.parser.ref_resolver.get_item(f"train::handlers::{number}::output_transform")
            if item is not None:  # the config was taken apart before
                item.update_config(_OURS)
