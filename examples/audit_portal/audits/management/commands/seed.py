from __future__ import annotations

import json
import random
import time
from argparse import ArgumentParser
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.management.base import BaseCommand
from django.db import transaction

from audits.models import Audit, Building, Finding, Inspector, Lift, Photo
from audits.pictures import photograph
from audits.worker import thumbnail_of

BATCH = 2000
BUILDINGS = 120
LIFTS = 3 * BUILDINGS
FIRST_DAY = date(2019, 6, 1)
DAYS_BETWEEN_AUDITS = 0.2675

PLACES = [
    "Harbour",
    "Mill",
    "Station",
    "Garden",
    "Castle",
    "Market",
    "River",
    "Orchard",
    "Chapel",
    "Tannery",
    "Foundry",
    "Meadow",
    "Bridge",
    "Lindens",
    "Cedar",
]
KINDS = ["House", "Tower", "Court", "Arcade", "Wharf", "Lofts", "Terrace", "Exchange"]
STREETS = [
    "Quay Street",
    "Mill Lane",
    "Station Road",
    "High Street",
    "Ropewalk",
    "Elm Row",
    "Canal Side",
    "Hill Road",
]
CITIES = [
    "Bergen",
    "Ghent",
    "Graz",
    "Porto",
    "Turku",
    "Leiden",
    "Lucerne",
    "Aarhus",
    "Girona",
    "Trieste",
    "Galway",
    "Olomouc",
]
MAKERS = ["Nordlift", "Alpina", "Veritas", "Kestrel", "Morath", "Sollers"]
FIRST = [
    "Ada",
    "Bram",
    "Clara",
    "Dario",
    "Edith",
    "Femke",
    "Goran",
    "Hanna",
    "Ivo",
    "Jonna",
    "Kaspar",
    "Lena",
]
LAST = [
    "Aalto",
    "Brandt",
    "Castel",
    "Dvorak",
    "Egger",
    "Fischer",
    "Grieg",
    "Holm",
    "Ilic",
    "Jansen",
    "Koller",
    "Lund",
]
NOTES = {
    "low": [
        "Car lighting: one of four tubes is dark.",
        "Notice with the load limit is faded and should be renewed.",
        "Handrail at the rear wall is loose at its left bracket.",
        "Floor indicator on level 3 flickers.",
        "Dust on the guide rails; clean and oil at the next service.",
    ],
    "medium": [
        "Car stops 14 mm below the landing on level 2; adjust the levelling.",
        "Door on level 4 closes with a knock; the closing force is at its upper limit.",
        "Emergency call is answered after 48 seconds; at most 30 are allowed.",
        "Brake lining is at 40 percent of its thickness; renew within three months.",
        "Water in the pit after rain, about 2 cm; find the leak.",
    ],
    "high": [
        "Broken wires in two strands of rope 3; replace the set before further use.",
        "Door lock on level 1 makes contact while the door is still open by 12 mm.",
        "Overspeed governor did not trip at its rated speed in two of three trials.",
        "Safety edge of the car door does not reverse the door.",
    ],
}
SUMMARIES = [
    "Periodic inspection with full and empty car. All safety devices were tried by hand.",
    "Follow-up of the last inspection. The caretaker was present and has the keys to the machine room.",
    "Yearly inspection. Ropes, brake, governor, door locks and emergency call were tested.",
]


class Command(BaseCommand):
    help = "Fill the portal with audits, the same ones every time; what is there already is left alone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--audits", type=int, default=10_000, help="how many audits there shall be (default 10000)"
        )

    def handle(self, *args: object, **options: object) -> None:
        started = time.monotonic()
        wanted = int(str(options["audits"]))
        with transaction.atomic():
            lifts, inspectors = self.people_and_places()
        known = set(Audit.objects.filter(reference__startswith="LA-").values_list("reference", flat=True))
        missing = [number for number in range(1, wanted + 1) if reference(number) not in known]
        for start in range(0, len(missing), BATCH):
            # A batch is whole or absent, so that a seed that was interrupted can simply run again.
            self.audits(missing[start : start + BATCH], lifts, inspectors)
        answer = {
            "audits": Audit.objects.count(),
            "added": len(missing),
            "seconds": round(time.monotonic() - started, 2),
        }
        self.stdout.write(json.dumps(answer))

    def people_and_places(self) -> tuple[list[int], list[int]]:
        inspectors = [
            Inspector(
                badge=f"INS-{number:03d}",
                name=f"{FIRST[number % 12]} {LAST[(number * 5 + number // 12) % 12]}",
            )
            for number in range(24)
        ]
        buildings = [
            Building(
                name=f"{PLACES[number % 15]} {KINDS[number // 15]}",
                street=f"{STREETS[number * 7 % 8]} {number * 13 % 180 + 1}",
                city=CITIES[number * 5 % 12],
            )
            for number in range(BUILDINGS)
        ]
        Inspector.objects.bulk_create(inspectors, ignore_conflicts=True)
        Building.objects.bulk_create(buildings, ignore_conflicts=True)
        ids = dict(Building.objects.values_list("name", "id"))
        lifts = [
            Lift(
                building_id=ids[buildings[number % BUILDINGS].name],
                serial=f"{MAKERS[number % 6][:2].upper()}-{40_000 + number * 37}",
                label=("Main lift", "Goods lift", "East lift")[number // BUILDINGS],
                manufacturer=MAKERS[number % 6],
                floors=3 + number * 7 % 19,
            )
            for number in range(LIFTS)
        ]
        Lift.objects.bulk_create(lifts, ignore_conflicts=True)
        by_serial = dict(Lift.objects.values_list("serial", "id"))
        by_badge = dict(Inspector.objects.values_list("badge", "id"))
        return [by_serial[lift.serial] for lift in lifts], [by_badge[person.badge] for person in inspectors]

    @transaction.atomic
    def audits(self, numbers: list[int], lifts: list[int], inspectors: list[int]) -> None:
        audits, notes = [], {}
        for number in numbers:
            dice = random.Random(number)
            found = severities(number, dice)
            notes[reference(number)] = [
                (severity, dice.choice(NOTES[severity]), dice.random()) for severity in found
            ]
            audits.append(
                Audit(
                    reference=reference(number),
                    lift_id=dice.choice(lifts),
                    inspector_id=dice.choice(inspectors),
                    performed_on=performed_on(number),
                    status="stopped" if "high" in found else "attention" if "medium" in found else "passed",
                    summary=dice.choice(SUMMARIES),
                    created_at=on_that_day(number, 0),
                )
            )
        Audit.objects.bulk_create(audits)
        ids = dict(
            Audit.objects.filter(reference__range=(audits[0].reference, audits[-1].reference)).values_list(
                "reference", "id"
            )
        )
        Finding.objects.bulk_create(
            Finding(
                audit_id=ids[name],
                severity=severity,
                note=note,
                resolved=name < reference(9_000) and chance < 0.9,
                token=f"seed-{name}-{place}",
                created_at=on_that_day(int(name[3:]), place + 1),
            )
            for name, rows in notes.items()
            for place, (severity, note, chance) in enumerate(rows)
        )
        for number in numbers:
            if number % 250 == 0 and settings.PHOTOS:
                self.photographs(number)

    def photographs(self, number: int) -> None:
        for place, finding in enumerate(
            Finding.objects.filter(token__startswith=f"seed-{reference(number)}-").order_by("id")
        ):
            picture = photograph(number // 250 * 7 + place)
            name = f"{reference(number).lower()}-{place}.jpg"
            photo = Photo(finding=finding, caption=finding.note[:120])
            photo.image.save(name, ContentFile(picture), save=False)
            with photo.image.open("rb") as file:
                photo.thumbnail.save(name, ContentFile(thumbnail_of(file)), save=False)
            photo.save()


def performed_on(number: int) -> date:
    return FIRST_DAY + timedelta(days=int(number * DAYS_BETWEEN_AUDITS))


def on_that_day(number: int, place: int) -> datetime:
    """The minute an audit began, and those at which its findings were written down."""
    start = datetime.combine(performed_on(number), clock(8, 0), UTC)
    return start + timedelta(minutes=number * 37 % 420 + place * 11)


def reference(number: int) -> str:
    return f"LA-{number:06d}"


def severities(number: int, dice: random.Random) -> list[str]:
    """What an audit finds: mostly little. Every 250th has photographs, so it has something to show."""
    if number % 1000 == 0:
        return ["low", "medium", "high"]
    count = dice.choices((0, 1, 2, 3), (34, 36, 20, 10))[0]
    if number % 250 == 0:
        count = max(count, 1)
    return dice.choices(("low", "medium", "high"), (62, 31, 7), k=count)
