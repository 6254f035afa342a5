"""The demo's DBC, its VSS mappings and the recorded drive fit together, as cantools sees it."""

import gzip
import json
import pathlib
import re
import sys
import unittest

import cantools

ROOT = pathlib.Path(__file__).parents[2]
DBC = ROOT / "can-bridge/dbc"
DATA = ROOT.parent / "shared/data"
OVERLAY_ONLY = {"Vehicle.Exterior.AirQuality.PM25"}
LINE = re.compile(r"\((\d+\.\d{6})\) can0 ([0-9A-F]{3}|[0-9A-F]{8})#((?:[0-9A-F]{2}){0,8})\n")


def signals(database):
    return {signal.name: signal for message in database.messages for signal in message.signals}


def leaves(tree, prefix=""):
    for name, node in tree.items():
        path = f"{prefix}{name}"
        yield from leaves(node["children"], f"{path}.") if "children" in node else [(path, node)]


class DbcTest(unittest.TestCase):
    def setUp(self):
        self.database = cantools.database.load_file(DBC / "verge-demo.dbc", strict=True)

    def test_signal_names_are_unique(self):
        names = [s.name for m in self.database.messages for s in m.signals]
        self.assertEqual(sorted(names), sorted(set(names)))

    def check_mapping(self, mapping, database):
        by_name = signals(database)
        for path, leaf in mapping.items():
            rule = leaf["dbc2vss"]
            self.assertIn(rule["signal"], by_name, path)
            signal = by_name[rule["signal"]]
            if signal.multiplexer_ids:
                page = {"signal": signal.multiplexer_signal, "value": signal.multiplexer_ids[0]}
                self.assertEqual(rule["multiplexer"], [page], path)
            names = {str(name) for name in (signal.choices or {}).values()} or {0, 1}
            for row in rule.get("transform", {}).get("mapping", []):
                self.assertIn(row["from"], names, path)

    def test_mapping_of_the_demo_fits(self):
        self.check_mapping(json.loads((DBC / "verge-demo.vss.json").read_text()), self.database)

    def test_mappings_fit_the_real_recording_and_the_catalogue(self):
        if not DATA.is_dir():
            print(f"\n*** NOT CHECKED against real data: {DATA} is absent ***", file=sys.stderr)
            return
        gps = cantools.database.load_file(DATA / "canmod-gps.dbc", strict=True)
        self.check_mapping(json.loads((DBC / "canmod-gps.vss.json").read_text()), gps)
        catalogue = dict(leaves(json.loads((DATA / "vss.json").read_text())))
        for file in ("verge-demo.vss.json", "canmod-gps.vss.json"):
            for path, leaf in json.loads((DBC / file).read_text()).items():
                if path not in OVERLAY_ONLY:
                    for field in ("type", "datatype", "unit"):
                        self.assertEqual(leaf.get(field), catalogue[path].get(field), f"{path} {field}")
                    for row in leaf["dbc2vss"].get("transform", {}).get("mapping", []):
                        self.assertIn(row["to"], catalogue[path].get("allowed", [row["to"]]), path)

    def test_drive_decodes_in_order_and_in_range(self):
        by_name, last, frames, seen = signals(self.database), 0.0, 0, set()
        with gzip.open(ROOT / "sim/drives/a10kw.log.gz", "rt") as log:
            for line in log:
                at, identifier, data = LINE.fullmatch(line).groups()
                self.assertGreaterEqual(float(at), last)
                last, frames = float(at), frames + 1
                self.assertNotEqual(identifier, "2A0", "nobody sends ADAS_Request in the recording")
                values = self.database.decode_message(int(identifier, 16), bytes.fromhex(data), decode_choices=False)
                seen |= values.keys()
                for name, value in values.items():
                    self.assertTrue(by_name[name].minimum <= value <= by_name[name].maximum, f"{line} {name}={value}")
        requests = {s.name for s in self.database.get_message_by_name("ADAS_Request").signals}
        self.assertEqual(seen, by_name.keys() - requests)
        self.assertGreaterEqual(frames / 115, 100)


if __name__ == "__main__":
    unittest.main()
