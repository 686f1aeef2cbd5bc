"""The 14 findings of CheXpert (Irvin et al., AAAI 2019), in its order."""

from __future__ import annotations

NO_FINDING = "No Finding"
SUPPORT_DEVICES = "Support Devices"
EDEMA = "Edema"
FINDINGS = (
    NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", EDEMA, "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", SUPPORT_DEVICES,
)  # fmt: skip
OTHER = "Other Abnormality"
SEVERITY = "edema_severity"
