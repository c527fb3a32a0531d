"""What we can sample: variational families over responses."""

from guides.fine_tuned import FineTuned
from guides.guide import Guide, GuideRegistrationError

GUIDES: dict[str, type[Guide]] = {"fine-tuned": FineTuned}

__all__ = ["GUIDES", "FineTuned", "Guide", "GuideRegistrationError"]
