"""What we can sample: variational families over responses."""

from guides.fine_tuned import FineTuned
from guides.fixed import Fixed
from guides.guide import Guide, GuideRegistrationError, OtherGuideError

GUIDES: dict[str, type[Guide]] = {"fine-tuned": FineTuned, "fixed": Fixed}

__all__ = ["GUIDES", "FineTuned", "Fixed", "Guide", "GuideRegistrationError", "OtherGuideError"]
