"""Running for months: the wiring of the other rooms, and what the outside hears of it."""
