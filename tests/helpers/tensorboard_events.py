import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog


def events(path):
    """Events of one file: records of length, its checksum, content and its checksum."""
    content = path.read_bytes()
    place = 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield Event.FromString(content[place + 12 : place + 12 + length])
        place += 12 + length + 4


def shown(folder):
    """{(tag, step): value} as TensorBoard shows them; fails where a step is there twice.

    Its rule: a session's start at step s hides what came before it with steps of s and more.
    """
    found = {}
    for path in sorted(folder.iterdir(), key=lambda p: int(p.name.rsplit(".", 1)[1])):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                found = {key: v for key, v in found.items() if key[1] < event.step}
            for value in event.summary.value:
                assert (value.tag, event.step) not in found
                found[value.tag, event.step] = value
    return found
