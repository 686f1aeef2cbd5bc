"""What each rank of a test runs: bundles in a row, so that one launch serves several.

torchrun … run_on_ranks.py '[{"config_file": […], "bundle_root": …, …}, …]'
"""

import json
import sys

from monai.bundle import create_workflow

from cxrmonai import distributed

if __name__ == "__main__":
    for options in json.loads(sys.argv[1]):
        work = create_workflow(**options)
        work.initialize()
        work.run()
    work.finalize()
    assert not distributed.is_active()
