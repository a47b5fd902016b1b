"""Objects in memory as a disk of the machine holds them, and a process's view of them.

What is written is there, whole, and survives every process. A step lies before and after each operation, so a process
dies or stands still between any two of them: with a piece written and no manifest, with an old manifest deleted and
its pieces still there. A disk may be full, slow, and forget or alter what it holds.
"""

import errno


class Disk:
    """What is stored: name → bytes."""

    def __init__(self):
        self.objects = {}
        self.full = False
        self.slow_s = 0.0

    def names(self, prefix=""):
        return sorted(name for name in self.objects if name.startswith(prefix))


class ProcessStore:
    """An `ObjectStore` on a disk, as a process uses it.

    Args:
        process: whose steps the operations are.
        disk: where objects lie.
        folder: a real folder, for lock files only.
    """

    def __init__(self, process, disk, folder=None):
        self._process, self._disk, self._folder = process, disk, folder

    def path(self, name):
        return self._folder / name

    def _begin(self, writes):
        self._process.step(0.002 + self._disk.slow_s)
        if writes and self._disk.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def put(self, name, data):
        self._begin(writes=True)
        self._disk.objects[name] = bytes(data)
        self._process.world.note(self._process.name, "puts", name)
        self._process.world.oracle.stored(name)
        self._process.step()

    def put_new(self, name, data):
        self._begin(writes=True)
        if name in self._disk.objects:
            return False
        self._disk.objects[name] = bytes(data)
        self._process.world.note(self._process.name, "puts new", name)
        self._process.world.oracle.stored(name)
        self._process.step()
        return True

    def swap(self, name, old, new):
        self._begin(writes=True)
        held = self._disk.objects.get(name)
        if held != old:
            return held == new
        self._disk.objects[name] = bytes(new)
        self._process.world.note(self._process.name, "swaps", name)
        self._process.world.oracle.stored(name)
        self._process.step()
        return True

    def get(self, name):
        self._begin(writes=False)
        return self._disk.objects.get(name)

    def names(self, prefix=""):
        self._begin(writes=False)
        return iter(self._disk.names(prefix))

    def delete(self, name):
        self._begin(writes=False)
        self._disk.objects.pop(name, None)


class StillStore:
    """An `ObjectStore` that looks at a disk without taking time: what the oracle uses."""

    def __init__(self, disk):
        self._disk = disk

    def get(self, name):
        return self._disk.objects.get(name)

    def names(self, prefix=""):
        return iter(self._disk.names(prefix))
