"""What experiment trackers kept of a run on this machine, read back."""

import struct


def wandb_rows(workdir, run_id):
    """The rows that Weights & Biases kept offline, and (id, name, project) of the runs it knows."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows, runs = [], set()
    for path in sorted((workdir / "wandb").glob(f"offline-run-*/run-{run_id}.wandb")):
        for data in _records(path.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                runs.add((record.run.run_id, record.run.display_name, record.run.project))
            if record.HasField("history"):
                items = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
                rows.append({k: float(v) for k, v in items.items() if not k.startswith("_")})
    return rows, runs


def _records(data):
    """The records of a .wandb file: LevelDB's log format after 7 bytes of its own."""
    place, record = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768  # of the block; fewer than 7 bytes are filled up
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])  # after a checksum
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield record
            record = b""


def trackio_rows(run_id, project="mova_jax"):
    """The rows that Trackio kept of a run, by step, and the names of the runs with this id."""
    import trackio

    names = [run.name for run in trackio.Api().runs(project) if run_id in run.name]
    rows = [row for name in names for row in trackio.SQLiteStorage.get_logs(project, name)]
    return sorted(rows, key=lambda row: row["step"]), names
