#!/usr/bin/env python3
"""Check deploy/home-assistant with Home Assistant's own validators.

    check_yaml.py FOLDER [REPORT]

The blueprint must be one, and with inputs filled in an automation that Home Assistant accepts. Every entity that the
dashboard card names must be in REPORT, the output of ha_check.py. Exit code 0: all is well.
"""
import asyncio, json, os, re, sys, tempfile

from homeassistant import core, loader
from homeassistant.components.automation.config import PLATFORM_SCHEMA
from homeassistant.components.blueprint import models
from homeassistant.components.blueprint.schemas import BLUEPRINT_SCHEMA
from homeassistant.util import yaml


async def main(folder, report):
    problems = []
    data = yaml.load_yaml(f"{folder}/blueprint-alarm.yaml")
    blueprint = models.Blueprint(data, path="alarm.yaml", expected_domain="automation", schema=BLUEPRINT_SCHEMA)
    problems += blueprint.validate() or []
    inputs = models.BlueprintInputs(blueprint, {"use_blueprint": {"path": "alarm.yaml", "input": {
        "safety": "binary_sensor.safety", "picture": "image.last_alarm", "siren": {"entity_id": ["switch.siren"]},
        "notify": [{"action": "notify.notify", "data": {"title": "{{ title }}", "message": "{{ message }}"}}]}}})
    inputs.validate()
    with tempfile.TemporaryDirectory() as config:
        hass = core.HomeAssistant(config)
        loader.async_setup(hass)
        automation = inputs.async_substitute()
        automation = {k: v for k, v in automation.items() if k not in ("use_blueprint", "blueprint")}
        PLATFORM_SCHEMA({"alias": "standoff", "id": "standoff", **automation})
        await hass.async_stop(force=True)
    card = open(f"{folder}/dashboard-card.yaml").read()
    yaml.parse_yaml(card)
    if report:
        known = {e["entity_id"] for e in json.load(open(report))["entities"]}
        named = set(re.findall(r"\b(?:binary_sensor|sensor|image|number|switch|button)\.standoff_\w+", card))
        problems += [f"the card names {entity}, which is not there" for entity in sorted(named - known)]
    print(*problems or ["the blueprint and the card are as Home Assistant wants them"], sep="\n", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    os._exit(asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)))
