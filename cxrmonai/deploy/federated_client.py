"""The script that NVFlare starts at each hospital; `--site_file` names its site.json, `{site}` in it the hospital."""

from __future__ import annotations

import argparse
from pathlib import Path

import nvflare.client as flare
from nvflare.apis.fl_constant import FLMetaKey

from cxrmonai.deploy.federated_site import ERROR_FILE, Site
from cxrmonai.errors import user_error
from cxrmonai.files import write_text

GLOBAL_MODEL = "global_model.pt"


def serve(site_file: str) -> None:
    """Answers the server's tasks until it has none: each is weights to validate, and mostly to train from."""
    flare.init()
    name = flare.get_site_name()
    path = Path(site_file.replace("{site}", name))
    try:
        site = Site.read(path, name)
        while flare.is_running():
            task = flare.receive()
            if task is None:
                break
            metrics = site.validate(task.params)
            if flare.is_train():
                weights = site.train(task.params)
            else:  # the last task: nothing more is to be learned
                weights = {}
                site.save(task.params, site.folder / GLOBAL_MODEL)
            meta = {FLMetaKey.NUM_STEPS_CURRENT_ROUND: site.images}
            flare.send(flare.FLModel(params=weights, metrics=metrics, meta=meta))
    except Exception as error:
        told = user_error(error)
        if told is not None:
            write_text(path.parent / ERROR_FILE, f"{told}\n")
        raise


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--site_file", required=True)
    serve(parser.parse_args().site_file)
