"""What others have published on FairFace's val images: accuracy of the 9 age groups and of gender.

They compare with a run of `protocol: official` alone, which scores on the same 10,954 images.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One published result.

    Attributes:
        model: Its name.
        year: Of the publication; None for an undated model card.
        age_acc: Share of images with the right age group, 0..1.
        gen_acc: The same of gender.
        source: Where it stands.
        note: What to know before comparing; empty for nothing.
    """

    model: str
    year: int | None
    age_acc: float
    gen_acc: float
    source: str
    note: str = ""


_POOLED = "pooled here from the paper's White and other columns"

PUBLISHED = (
    Published("CLIP ViT-L/14, linear probe", 2021, 0.6323, 0.9747, "Radford et al., arXiv:2103.00020", _POOLED),
    Published("MiVOLO-D1", 2023, 0.6107, 0.9573, "Kuprashevich and Tolstykh, arXiv:2307.04616", "trained on other data"),
    Published("ConvNeXt-Nano, pretrained on faces", 2025, 0.6080, 0.9556,
              "model card wesjos/fairface-redconsole-cnano-3task-224", "10,931 images: duplicates left out"),
    Published("FairFace ResNet-34", 2021, 0.6051, 0.9436, "Karkkainen and Joo, arXiv:1908.04913", _POOLED),
    Published("CLIP ViT-L/14, fine-tuned", None, 0.5917, 0.9638,
              "model card syntheticbot/clip-face-attribute-classifier"),
    Published("ViT-B/16, in21k", None, 0.5892, 0.9342,
              "model cards dima806/fairface_age_image_detection and _gender_", "10,000 images"),
    Published("CLIP ViT-L/14, zero-shot", 2021, 0.5483, 0.9695, "Radford et al., arXiv:2103.00020", _POOLED),
    Published("ResNet-50, one epoch", None, 0.5164, 0.8986, "model cards crangana/trained-age and trained-gender"),
)  # fmt: skip
