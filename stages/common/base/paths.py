"""Where the stages leave their outputs: artifacts are large and kept by DVC, reports are small and kept in git.

Named here is what one stage writes and another reads; an output that no stage reads is named where it is written.
"""

from pathlib import Path

ARTIFACTS, REPORTS = Path("artifacts"), Path("reports")

EXCLUSIONS = ARTIFACTS / "exclusions.csv"  # of split_check: path,reason
GROUPS = ARTIFACTS / "groups.csv"  # of split_check: path,group,source
FEATURES = ARTIFACTS / "features.csv"  # of split_check, of the photos in use: path and what has nothing to do with dirt
TRAIN_PHOTOS = ARTIFACTS / "train_photos.csv"  # of split_check, the train photos in use: path,group,source,sha256
BACKBONE = ARTIFACTS / "backbone.safetensors"
REFERENCE = ARTIFACTS / "reference.safetensors"  # of backbone: the frozen network that tells whether there is a car
CHECKPOINT = ARTIFACTS / "best.pt"
HOLDOUT = ARTIFACTS / "holdout.csv"  # of train, the photos it held out: path
NETWORK = ARTIFACTS / "network.onnx"  # of convert: pixels -> logit, distance, map
CALIBRATION = ARTIFACTS / "calibration.json"
PREDICTIONS = ARTIFACTS / "predictions"  # of eval, {val,test}.csv: path,label,logit,p_clean, Measures, group,source
THRESHOLD = ARTIFACTS / "threshold.json"
MODEL = ARTIFACTS / "best.onnx"  # of export, what is served: pixels -> p_clean, distance, map
