"""Puts frames of the demo's DBC onto the multicast bus of python-can until it is ended: drive.py GROUP PORT DBC.

Speed rises by 0.5 km/h a frame from 10 to 200 and starts again; pedals, engine and position are on the bus as
well, so that an app that is not granted them has something not to see.
"""

import itertools
import sys
import time

import can
import cantools


def main():
    group, port, dbc = sys.argv[1:]
    database = cantools.database.load_file(dbc)
    messages = [database.get_message_by_name(name) for name in ("Motion", "Pedals", "Engine", "Position")]
    values = [{s.name: max(0, s.minimum or 0) for s in message.signals} for message in messages]
    with can.Bus(interface="udp_multicast", channel=group, port=int(port), hop_limit=0) as bus:
        for n in itertools.count():
            values[0]["VehicleSpeed"] = 10 + n % 380 / 2
            for message, value in zip(messages, values):
                data = message.encode(value, strict=False)
                bus.send(can.Message(arbitration_id=message.frame_id, data=data,
                                     is_extended_id=message.is_extended_frame))
            time.sleep(0.02)


if __name__ == "__main__":
    main()
