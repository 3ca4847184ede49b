"""What a program of classic BPF says of a packet, as ``Documentation/networking/filter.rst`` describes it."""

from __future__ import annotations

from dataclasses import dataclass, field

_FROM_THE_KERNEL = {0xFFFFF004: 0, 0xFFFFF01C: 1}  # for this host, by Ethernet
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_CLASS = 7


class _TooShortError(Exception):
    """A load beyond the end: the packet is not taken."""


@dataclass
class _Machine:
    data: bytes
    value: int = 0
    index: int = 0
    memory: list[int] = field(default_factory=lambda: [0] * 16)

    def load(self, code: int, operand: int) -> int:
        mode = code & 0xE0
        if mode == 0x00:
            return operand
        if mode == 0x60:
            return self.memory[operand]
        if operand in _FROM_THE_KERNEL:
            return _FROM_THE_KERNEL[operand]
        at, size = operand + (self.index if mode == 0x40 else 0), _SIZES[code & 0x18]
        if at + size > len(self.data):
            raise _TooShortError
        return int.from_bytes(self.data[at : at + size], "big")

    def count(self, code: int, operand: int) -> int:
        other = self.index if code & 0x08 else operand
        return {0x00: self.value + other, 0x50: self.value & other, 0x60: self.value << other}[code & 0xF0]

    def jump(self, code: int, yes: int, no: int, operand: int) -> int:
        if code == 0x05:
            return operand
        return yes if {0x15: self.value == operand, 0x45: bool(self.value & operand)}[code] else no

    def other(self, code: int, operand: int) -> None:
        if code == 0xB1:
            self.index = (self.data[operand] & 15) * 4
        else:
            self.index = {0x01: operand, 0x07: self.value}[code]


def taken(instructions: list[tuple[int, int, int, int]], data: bytes) -> bool:
    """Whether the program takes a packet that reached a card for this host."""
    machine, place = _Machine(data), 0
    try:
        for _ in instructions:
            code, yes, no, operand = instructions[place]
            place += 1
            match code & _CLASS:
                case 0:
                    machine.value = machine.load(code, operand)
                case 2:
                    machine.memory[operand] = machine.value
                case 4:
                    machine.value = machine.count(code, operand)
                case 5:
                    place += machine.jump(code, yes, no, operand)
                case 6:
                    return operand > 0
                case _:
                    machine.other(code, operand)
    except _TooShortError:
        return False
    raise AssertionError("the program does not end")
