"""Makes the directory of an experiment as `quire experiment` would leave it, for tests and to look at.

usage: example_results.py DIR [hostile]

The numbers are made up, the same each time. With "hostile", names, reasons and host facts are markup and script, lines
are damaged, and the experiment's name is as long as it gets.
"""

import json
import math
import os
import random
import sys

MIB = 1 << 20
POOL = 512 * MIB
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=document.title='taken'>\u202e&amp;\"'"
BOUNDS = [0.25 * 2**i for i in range(22)]


def engine_speed(engine, overcommit):
    """Operations a second, before noise."""
    keeps = {"quire": 1.0, "kernel": 1.7, "kernel-best": 0.85}[engine]
    return 210_000 / (1 + keeps * max(0.0, overcommit - 0.95) ** 1.6 * (1 if engine == "quire" else 2.6))


def latencies(rng, median_us, tail):
    counts = [0] * (len(BOUNDS) + 1)
    for _ in range(20_000):
        us = rng.lognormvariate(math.log(median_us), 0.6)
        if rng.random() < tail:
            us = rng.lognormvariate(math.log(median_us * 60), 1.1)
        counts[sum(1 for bound in BOUNDS if us >= bound)] += 1
    return {"us": BOUNDS, "counts": counts}


def timeline(rng, engine, overcommit, speed):
    columns = {name: [] for name in ("seconds", "resident_bytes", "shared_bytes", "compressed_bytes", "other_bytes",
                                     "free_bytes", "huge_bytes", "operations", "faults", "guests")}
    operations = 0
    for step in range(1, 49):
        t = step * 0.25
        filled = min(1.0, t / 2.5)
        need = POOL * overcommit * filled
        compressed = max(0.0, need - POOL * 0.9) * 0.36
        compressed = min(compressed, POOL * 0.55) * (1 + 0.03 * math.sin(t * 2))
        shared = 28 * MIB * filled * (1 if engine == "quire" else 0)
        other = (6 + 2 * math.sin(t * 3)) * MIB
        resident = min(need, POOL * (0.985 + 0.008 * math.sin(t * 5)) - compressed - shared - other)
        huge = resident * {"quire": 0.82, "kernel": 0.36, "kernel-best": 0.58}[engine] / (1 + 0.35 * max(0, t - 2.5) / 10 * overcommit)
        operations += speed * 0.25 if t > 2.5 else 0
        values = [t, resident, shared, compressed, other, POOL - resident - shared - compressed - other, huge,
                  operations, operations / 40, 4]
        for name, value in zip(columns, values):
            columns[name].append(round(max(0.0, value), 3) if name == "seconds" else int(max(0.0, value)))
    if engine != "quire":
        del columns["shared_bytes"]
    return columns


def run_line(engine, overcommit, repetition, hostile):
    rng = random.Random(f"{engine} {overcommit} {repetition}")
    # What changes on the host in the course of the experiment changes both of a pair.
    weather = random.Random(f"{overcommit} {repetition}").gauss(1, 0.06)
    speed = engine_speed(engine, overcommit) * weather * rng.gauss(1, 0.025)
    killed = engine == "kernel" and overcommit >= 3 and repetition <= (2 if overcommit < 4 else 5)
    reason = "the host kernel ended guest-2: its cgroup was out of memory, and zram was full"
    name = f"engine={engine} overcommit={overcommit:g} repetition={repetition}"
    line = {
        "form": 1,
        "run": name,
        "point": {"engine": engine, "overcommit": overcommit},
        "repetition": repetition,
        "seed": repetition,
        "settings": {"engine": engine, "guests": 4, "memory": "256M" if overcommit == 2 else f"{128 * overcommit:g}M",
                     "pool": "512M", "workload": "zipf:theta=0.9,writes=0.2", "accel": "soft", "seconds": 10,
                     "seed": repetition},
        "started": f"2026-11-22T10:{repetition:02}:00Z",
        "wall_seconds": 14.2 + rng.random(),
        "version": "0.1.0",
        "host": {"version": "0.1.0", "runs": True, "accel": "soft", "pool": "memfd", "pages": "huge",
                 "verdict": "`quire run` will use software vCPUs.",
                 "findings": [
                     {"name": "CPU", "grade": "good", "found": "2 x AMD EPYC, no nested paging", "means": "", "fix": ""},
                     {"name": "memory", "grade": "good", "found": "15.6 GiB, 11 GiB free", "means": "", "fix": ""},
                     {"name": "kernel", "grade": "good", "found": "Linux 6.12.8", "means": "", "fix": ""},
                     {"name": "swap", "grade": "note", "found": "zram0, lz4, 4 GiB", "means": "", "fix": ""}]},
        "outcome": "killed" if killed else "ok",
        "reason": reason if killed else "",
        "values": {},
        "phases": [{"name": "fill", "begin": 0, "end": 2.5, "measured": False},
                   {"name": "run", "begin": 2.5, "end": 9.0, "measured": True, "operations_per_second": speed},
                   {"name": "settle", "begin": 9.0, "end": 12.0, "measured": False}],
        "report": None,
    }
    if hostile:
        line["settings"][HOSTILE] = HOSTILE
        line["host"][HOSTILE] = HOSTILE
        line["reason"] = HOSTILE if killed else ""
        line["phases"][1]["name"] = HOSTILE
    if killed:
        return line
    cold = 1 + max(0.0, overcommit - 1)
    line["values"] = {
        "operations_per_second": speed,
        "cpu_seconds": (14 + 2 * overcommit * (1.3 if engine == "kernel" else 1)) * rng.gauss(1, 0.02),
        "memory_bytes": int(POOL * min(1, 0.97 * overcommit)),
        "peak_memory_bytes": int(POOL * 0.995),
        "guest_memory_bytes": int(POOL * overcommit),
        "huge_share": min(1.0, {"quire": 0.74, "kernel": 0.33, "kernel-best": 0.5}[engine] / cold**0.3 * rng.gauss(1, 0.03)),
        "latency_p99_us": 38 * cold * {"quire": 1, "kernel": 3.1, "kernel-best": 1.9}[engine] * rng.gauss(1, 0.08),
        "mismatched_pages": 0,
    }
    line["timeline"] = timeline(rng, engine, overcommit, speed)
    line["latency"] = latencies(rng, 2.1 if engine == "quire" else 2.3,
                                0.012 * cold * {"quire": 1, "kernel": 3.4, "kernel-best": 1.8}[engine])
    return line


def experiment(hostile):
    engines, overcommits = ["quire", "kernel", "kernel-best"], [1.0, 1.5, 2.0, 3.0, 4.0]
    return {
        "form": 1,
        "name": HOSTILE * 3 if hostile else "overcommit",
        "asks": HOSTILE if hostile else
                "How much of their throughput do guests keep as they get more memory than there is?",
        "about": "Four guests in a pool of 512 MiB get more and more memory. Each fills all of it, then reads and writes "
                 "pages by a Zipf distribution.\n\nThe same guests run in the host kernel's own memory management, with "
                 "swap in zram: as it comes, and at its best.",
        "file": "# What guests keep of their throughput.\nname = \"overcommit\"\nrepetitions = 5\n\n[axes]\n"
                "engine = [\"quire\", \"kernel\", \"kernel-best\"]\novercommit = [1.0, 1.5, 2.0, 3.0, 4.0]\n",
        "quick": hostile,
        "axes": [{"name": "engine", "values": engines}, {"name": "overcommit", "values": overcommits}],
        "repetitions": 5,
        "charts": [
            {"kind": "values", "title": "Throughput as memory gets scarce", "x": "overcommit",
             "y": "operations_per_second", "series": "engine", "better": "higher", "compare": ["quire", "kernel"]},
            {"kind": "values", "title": "The slowest hundredth" if not hostile else HOSTILE, "x": "engine",
             "y": "latency_p99_us", "better": "lower", "at": {"overcommit": 2.0}},
            {"kind": "values", "title": "CPU time", "x": "overcommit", "y": "cpu_seconds", "series": "engine",
             "better": "lower", "compare": ["quire", "kernel-best"]},
            {"kind": "memory", "title": "Where the memory goes, at twice as much", "at": {"overcommit": 2.0}},
            {"kind": "coverage", "title": "Memory mapped by 2 MiB", "series": "engine", "at": {"overcommit": 2.0}},
            {"kind": "latency", "title": "How long operations take", "series": "engine", "at": {"overcommit": 2.0}},
        ],
    }


def write(directory, hostile=False):
    os.makedirs(directory, exist_ok=True)
    asked = experiment(hostile)
    with open(os.path.join(directory, "experiment.json"), "w", encoding="utf-8") as file:
        json.dump(asked, file)
    with open(os.path.join(directory, "results.jsonl"), "w", encoding="utf-8") as file:
        for overcommit in asked["axes"][1]["values"]:
            for repetition in range(1, 6):
                for engine in asked["axes"][0]["values"]:
                    file.write(json.dumps(run_line(engine, overcommit, repetition, hostile)) + "\n")
        if hostile:
            again = run_line("quire", 1.0, 1, hostile)
            again["values"]["operations_per_second"] = 1e308  # left out
            again["timeline"]["huge_bytes"] = [1]
            file.write(json.dumps(again) + "\nno JSON\n{\"form\": 2}\n[]\n")
            file.write("{\"form\": 1, \"run\": \"x\", \"outcome\": \"ok\", \"repetition\": 1, \"point\": {}}\n{\"form\": 1, \"ru")


if __name__ == "__main__":
    write(sys.argv[1], hostile="hostile" in sys.argv[2:])
