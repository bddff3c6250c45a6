"""What every test starts from: no network, no progress bars, pictures without a screen, a fixed number of threads."""

import os
import runpy
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # blocks the network here ...
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))  # ... and below
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", TQDM_DISABLE="1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import matplotlib  # noqa: E402
import torch  # noqa: E402

matplotlib.use("Agg")  # not the variable MPLBACKEND: notebook kernels would inherit it and draw nothing
torch.set_num_threads(min(2, os.cpu_count() or 1))
