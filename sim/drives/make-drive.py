#!/usr/bin/env python3
"""Makes the demo drive: an ego car on SUMO's A10KW motorway, recorded as CAN frames.

    make-drive.py [--seed N] [--seconds N] [--out FILE.log.gz]

SUMO drives every car; one with a long trip becomes the ego car. Its state, 50 times a second, is put
into frames by can-bridge/dbc/verge-demo.dbc, each message at its own cycle, and written as a candump
log. The same seed and the same versions give the same bytes.

From SUMO: speed, acceleration, heading, position, distance, brake lights, indicators. Worked out from
them: yaw rate, steering (bicycle model), pedals, gear, engine speed. Invented, with a seed: outside
temperature, fine dust, humidity, air pressure, battery, tyres, fuel, oil and coolant temperatures, the
odometer's start, wipers, the GNSS receiver's figures.

Needs (all pinned): scripts/material.sh sumo pylib. Run it with the interpreter and path named there:

    PYTHONPATH=target/material/pylib:target/material/sumo/sumo/tools \\
    SUMO_HOME=target/material/sumo/sumo python3 sim/drives/make-drive.py

It takes about two minutes. SUMO's complaint about proj.db does no harm: the net spells its projection out.
"""

import argparse
import gzip
import math
import os
import pathlib
import random

import cantools
import traci
import traci.constants as tc

ROOT = pathlib.Path(__file__).resolve().parents[2]
DBC = ROOT / "can-bridge/dbc/verge-demo.dbc"
STEP_S = 0.02
DECIDE_S = 0.1  # how often a driver decides; SUMO's drivers are tuned for that order, not for STEP_S
WARM_UP_S = 120  # until the motorway has filled
SEARCH_S = 520  # the ego car must arrive before
START_EPOCH_S = 1_770_000_000  # the log's first second: a constant, so that the file is reproducible
WATCHED = [
    tc.VAR_SPEED, tc.VAR_ACCELERATION, tc.VAR_ANGLE, tc.VAR_POSITION, tc.VAR_DISTANCE, tc.VAR_SIGNALS,
]

# A middle-class car.
WHEELBASE_M, STEERING_RATIO, TYRE_CIRCUMFERENCE_M, FINAL_DRIVE = 2.65, 15.0, 1.95, 3.4
GEAR_RATIOS = [3.8, 2.2, 1.45, 1.05, 0.84, 0.69]
SHIFT_UP_KMH = [18, 35, 55, 75, 95]
SHIFT_HYSTERESIS_KMH = 6
MAX_LATERAL_MS2 = 4.0  # a road's corners in the net are sharper than any driver takes them
# Bits of SUMO's VAR_SIGNALS.
BLINKER_RIGHT, BLINKER_LEFT, BRAKE_LIGHT = 1, 2, 8


def start_sumo(seed):
    """SUMO with the A10KW scenario as it ships, but at our step length and without its screen parts."""
    home = pathlib.Path(os.environ["SUMO_HOME"])
    scenario = home / "tools/game/A10KW"
    kinds = ["passenger", "truck", "passenger_mw", "truck_mw", "passenger_mwb", "truck_mwb"]
    routes = [scenario / f"osm.{kind}.rou.xml" for kind in kinds] + [scenario / "extra.rou.xml"]
    traci.start([
        str(home / "bin/sumo"), "--net-file", str(scenario / "osm.net.xml"),
        "--route-files", ",".join(map(str, routes)), "--step-length", str(STEP_S),
        "--default.action-step-length", str(DECIDE_S), "--seed", str(seed),
        "--ignore-route-errors", "--time-to-teleport", "0", "--no-step-log", "--no-warnings",
    ])


def steps(until_s):
    """Simulates step by step; yields the time in seconds after each."""
    for step in range(1, round(until_s / STEP_S) + 1):
        traci.simulationStep()
        yield step * STEP_S


def choose_ego(seed, seconds):
    """The car with the longest way among those that are on the road long enough, and when it sets off."""
    start_sumo(seed)
    departed, trips = {}, []
    for now in steps(SEARCH_S):
        for car in traci.simulation.getDepartedIDList():
            if now >= WARM_UP_S and car.startswith("veh"):
                departed[car] = now
                traci.vehicle.subscribe(car, [tc.VAR_DISTANCE])
        distance = {car: seen[tc.VAR_DISTANCE] for car, seen in traci.vehicle.getAllSubscriptionResults().items()}
        trips += [
            (distance.get(car, 0), car, departed[car])
            for car in departed if car in distance and seconds < now - departed[car] <= seconds + STEP_S
        ]
    traci.close()
    way, ego, since = max(trips)
    print(f"{ego} drives {way:.0f} m from {since:.2f} s on", flush=True)
    return ego, since


def drive(seed, ego, since, seconds):
    """The ego car's states, one per step, with its geographic position."""
    start_sumo(seed)
    states = []
    for now in steps(since + seconds):
        if now < since:
            continue
        if not states:
            traci.vehicle.subscribe(ego, WATCHED)
        seen = traci.vehicle.getSubscriptionResults(ego)
        longitude, latitude = traci.simulation.convertGeo(*seen[tc.VAR_POSITION])
        states.append({
            "t": now - since, "speed": seen[tc.VAR_SPEED], "acceleration": seen[tc.VAR_ACCELERATION],
            "angle": seen[tc.VAR_ANGLE], "distance": seen[tc.VAR_DISTANCE], "signals": seen[tc.VAR_SIGNALS],
            "latitude": latitude, "longitude": longitude,
        })
    traci.close()
    return states


class Car:
    """What the car's control units make of SUMO's state: filters and a gearbox."""

    def __init__(self, rng):
        self.rng = rng
        self.acceleration = 0.0
        self.heading = None
        self.steering = 0.0
        self.gear = 1
        self.temperature, self.dust = 19.0, 9.0

    def values(self, state):
        """Physical values of all signals for one state."""
        values = self.motion(state) | self.engine(state) | self.position(state) | self.surroundings(state)
        values |= self.lights(state["signals"])
        return values | self.slow(state["t"])

    def motion(self, state):
        speed = state["speed"]
        # SUMO changes acceleration and heading in jumps; a car has mass.
        self.acceleration += (state["acceleration"] - self.acceleration) * STEP_S / 0.3
        if self.heading is None:
            self.heading = state["angle"]
        turn = (state["angle"] - self.heading + 180) % 360 - 180
        yaw_rate = clamp(-turn / 0.5, min(40, math.degrees(MAX_LATERAL_MS2 / max(speed, 1.0))))
        self.heading = (self.heading - yaw_rate * STEP_S) % 360
        curve = math.radians(yaw_rate) / max(speed, 2.0)
        steering = clamp(math.degrees(math.atan(WHEELBASE_M * curve)) * STEERING_RATIO, 540)
        rate, self.steering = (steering - self.steering) / STEP_S, steering
        push = 14 + self.acceleration * 22 + speed * 0.5
        return {
            "VehicleSpeed": speed * 3.6,
            "LongitudinalAcceleration": clamp(self.acceleration, 15),
            "LateralAcceleration": speed * math.radians(yaw_rate),
            "YawRate": yaw_rate,
            "AcceleratorPosition": min(max(push, 0), 100) if self.acceleration > -0.3 else 0,
            "BrakePosition": min(max(-self.acceleration - 0.3, 0) * 18, 100),
            "BrakeActive": int(self.acceleration < -0.3),
            "SteeringAngle": steering,
            "SteeringRate": clamp(rate, 900),
        }

    def engine(self, state):
        kmh = state["speed"] * 3.6
        while self.gear < len(GEAR_RATIOS) and kmh > SHIFT_UP_KMH[self.gear - 1]:
            self.gear += 1
        while self.gear > 1 and kmh < SHIFT_UP_KMH[self.gear - 2] - SHIFT_HYSTERESIS_KMH:
            self.gear -= 1
        wheel_rpm = state["speed"] / TYRE_CIRCUMFERENCE_M * 60
        return {
            "EngineSpeed": max(800, wheel_rpm * FINAL_DRIVE * GEAR_RATIOS[self.gear - 1]),
            "CurrentGear": self.gear,
            "GearSelector": 3,
            "Odometer": 48_217_000 + int(state["distance"]),
            "CoolantTemperature": 90,
        }

    def position(self, state):
        return {
            "Latitude": state["latitude"],
            "Longitude": state["longitude"],
            "Heading": self.heading % 360,
            "Altitude": 38.0 + 1.5 * math.sin(state["distance"] / 400),
            "FixType": 3,
            "Satellites": 14 + self.rng.randrange(3),
            "PositionAccuracy": 0.8 + self.rng.random() * 0.4,
        }

    def surroundings(self, state):
        # Warmer over the motorway, dustier where traffic is slow; both drift.
        warm = 19.0 + 2.5 * math.sin(state["distance"] / 900) + 0.3 * self.rng.uniform(-1, 1)
        dusty = 9.0 + max(0.0, 25 - state["speed"]) * 0.6 + 2.0 * self.rng.uniform(-1, 1)
        self.temperature += (warm - self.temperature) * STEP_S / 5
        self.dust += (dusty - self.dust) * STEP_S / 5
        return {
            "OutsideTemperature": self.temperature,
            "FineDust": max(self.dust, 0),
            "Humidity": 55,
            "AirPressure": 1013.2,
        }

    def lights(self, signals):
        return {
            "WiperMode": 0,
            "LowBeam": 1,
            "HighBeam": 0,
            "IndicatorLeft": int(bool(signals & BLINKER_LEFT)),
            "IndicatorRight": int(bool(signals & BLINKER_RIGHT)),
            "Hazard": 0,
            "BrakeLight": int(bool(signals & BRAKE_LIGHT)),
        }

    def slow(self, seconds):
        return {
            "BatteryVoltage": 14.1 + 0.1 * self.rng.uniform(-1, 1),
            "BatteryCurrent": -3.0 + self.rng.uniform(-1, 1),
            "BatteryTemperature": 31,
            "TyrePressureFrontLeft": 241.5, "TyrePressureFrontRight": 242.0,
            "TyrePressureRearLeft": 238.5, "TyrePressureRearRight": 237.0,
            "FuelLevel": 62.5 - seconds / 240,
            "OilTemperature": 104,
        }


def clamp(value, limit):
    return max(-limit, min(limit, value))


def frames(states, seed):
    """(time in microseconds, frame id text, data) of every frame of the recorded drive."""
    rng = random.Random(seed)
    car = Car(rng)
    database = cantools.database.load_file(DBC, strict=True)
    sent = [m for m in database.messages if m.name != "ADAS_Request"]
    counts = dict.fromkeys((m.name for m in sent), 0)
    for tick, state in enumerate(states):
        values = car.values(state)
        for place, message in enumerate(sent):
            every = round(message.cycle_time / 1000 / STEP_S)
            if (tick + place) % every:  # spread over the ticks
                continue
            count = counts[message.name]
            counts[message.name] += 1
            extra = {"MotionCounter": count % 16, "ServicePage": count % 3}
            data = encode(message, values | extra)
            # Frames of one tick queue behind each other, 250 us apart and a little uneven.
            at = round(tick * STEP_S * 1e6) + place * 250 + rng.randrange(120)
            yield at, f"{message.frame_id:0{8 if message.is_extended_frame else 3}X}", data


def encode(message, values):
    """The frame's bytes; of a multiplexed message only the page in turn."""
    page = values["ServicePage"]
    wanted = [s for s in message.signals if not s.multiplexer_ids or page in s.multiplexer_ids]
    return message.encode({s.name: values[s.name] for s in wanted}, strict=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=115)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "a10kw.log.gz")
    options = parser.parse_args()

    print(f"looking for an ego car (seed {options.seed}) ...", flush=True)
    ego, since = choose_ego(options.seed, options.seconds)
    states = drive(options.seed, ego, since, options.seconds)
    lines = [
        f"({START_EPOCH_S + at // 1_000_000}.{at % 1_000_000:06d}) can0 {identifier}#{data.hex().upper()}\n"
        for at, identifier, data in sorted(frames(states, options.seed), key=lambda frame: frame[0])
    ]
    options.out.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    way = states[-1]["distance"] - states[0]["distance"]
    print(f"{options.out}: {len(lines)} frames, {len(lines) / options.seconds:.0f} per second, "
          f"{way:.0f} m, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
