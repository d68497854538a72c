from __future__ import annotations

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile

from audits.models import Audit, Finding


class FindingForm(forms.ModelForm):
    photo = forms.ImageField(required=False, help_text="JPEG, PNG or WebP, up to 50 MB")

    class Meta:
        model = Finding
        fields = ["severity", "note", "token"]
        widgets = {
            "severity": forms.RadioSelect,
            "note": forms.Textarea(attrs={"rows": 4, "placeholder": "What did you see, and where?"}),
            "token": forms.HiddenInput,
        }

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, label_suffix="", **kwargs)
        self.fields["token"].required = False
        if not settings.PHOTOS:
            del self.fields["photo"]
        # A token that is known is not a mistake but a repetition; the view answers it.
        self.fields["token"].validators = [*self.fields["token"].validators, valid_token]

    def validate_unique(self) -> None:
        """Leave repetitions to the view."""

    def clean_photo(self) -> UploadedFile | None:
        photo = self.cleaned_data["photo"]
        if photo and photo.size > settings.UPLOAD_LIMIT_BYTES:
            raise forms.ValidationError("The photograph is larger than 50 MB.")
        if photo and photo.image.format not in {"JPEG", "PNG", "WEBP"}:
            raise forms.ValidationError("The photograph must be a JPEG, PNG or WebP file.")
        return photo

    def clean_token(self) -> str | None:
        return self.cleaned_data["token"] or None


def valid_token(token: str) -> None:
    if not token.replace("-", "").replace("_", "").isalnum() or not token.isascii():
        raise forms.ValidationError("A token has letters, digits, - and _ only.")


class AuditForm(forms.ModelForm):
    class Meta:
        model = Audit
        fields = ["reference", "lift", "inspector", "performed_on", "status", "summary"]
        widgets = {
            "performed_on": forms.DateInput(attrs={"type": "date"}),
            "summary": forms.Textarea(attrs={"rows": 4}),
        }
