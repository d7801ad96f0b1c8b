#!/usr/bin/env python3
"""Check deploy/home-assistant with Home Assistant's own validators.

    check_yaml.py FOLDER [REPORT]

The blueprint must be one, with inputs filled in an automation that Home Assistant accepts, and one that does what it
says when a rule alarms, is lost in its alarm, comes back and goes blind. Every entity that the dashboard card names must
be in REPORT, the output of ha_check.py. Exit code 0: all is well.
"""
import asyncio, json, os, re, shutil, sys, tempfile, time

from homeassistant import auth, bootstrap, config_entries, core, loader
from homeassistant.components.automation.config import PLATFORM_SCHEMA
from homeassistant.components.blueprint import models
from homeassistant.components.blueprint.schemas import BLUEPRINT_SCHEMA
from homeassistant.setup import async_setup_component
from homeassistant.util import yaml


async def drive(folder):
    """Runs an automation of the blueprint with a rule, a siren and somebody to tell; returns what went wrong."""
    with tempfile.TemporaryDirectory() as config:
        os.makedirs(f"{config}/blueprints/automation/standoff")
        shutil.copy(f"{folder}/blueprint-alarm.yaml", f"{config}/blueprints/automation/standoff/alarm.yaml")
        hass = core.HomeAssistant(config)
        loader.async_setup(hass)
        hass.config.skip_pip = True
        hass.config_entries = config_entries.ConfigEntries(hass, {})
        await bootstrap.async_load_base_functionality(hass)
        hass.auth = await auth.auth_manager_from_config(hass, [{"type": "homeassistant"}], [])
        told = []
        hass.services.async_register("phone", "tell", lambda call: told.append(call.data["title"]))
        rule, siren = "binary_sensor.rule", "input_boolean.siren"
        hass.states.async_set(rule, "off", {"state": "clear"})
        hass.states.async_set("image.last_alarm", "2026-01-01T00:00:00+00:00")
        automation = {"id": "standoff", "alias": "standoff", "use_blueprint": {"path": "standoff/alarm.yaml", "input": {
            "safety": rule, "picture": "image.last_alarm", "siren": {"entity_id": siren}, "blind_after": 1,
            "notify": [{"action": "phone.tell", "data": {"title": "{{ title }}"}}]}}}
        for name, settings in (("homeassistant", {}), ("input_boolean", {"siren": {}}), ("automation", [automation])):
            if not await async_setup_component(hass, name, {name: settings}):
                return [f"Home Assistant could not set up '{name}'"]
        await hass.async_start()
        problems = []
        for step, value, attributes, sounds, hears in (
            ("an alarm", "on", {"state": "alarm"}, "on", ["Too close"]),
            ("lost in its alarm", "unavailable", {}, "on", ["Too close", "Nobody is watching"]),
            ("back and clear", "off", {"state": "clear"}, "off", ["Too close", "Nobody is watching"]),
            ("blind", "on", {"state": "unknown"}, "off", ["Too close", "Nobody is watching", "Nobody is watching"]),
        ):
            hass.states.async_set(rule, value, attributes)
            end = time.monotonic() + 20
            right = lambda: (hass.states.get(siren).state, told) == (sounds, hears)
            while not right() and time.monotonic() < end:
                await asyncio.sleep(0.05)
            if not right():
                problems.append(f"{step}: the siren is {hass.states.get(siren).state}, not {sounds}; told {told}")
        await hass.async_stop(force=True)
        return problems


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
    problems += await drive(folder)
    card = open(f"{folder}/dashboard-card.yaml").read()
    yaml.parse_yaml(card)
    if report:
        known = {e["entity_id"] for e in json.load(open(report))["entities"]}
        named = set(re.findall(r"\b(?:binary_sensor|sensor|image|number|switch|button)\.standoff_\w+", card))
        problems += [f"the card names {entity}, which is not there" for entity in sorted(named - known)]
    print(*problems or ["the blueprint does what it says, and the card is as Home Assistant wants it"], sep="\n", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    os._exit(asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)))
