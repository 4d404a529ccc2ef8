"""Eight worked word problems, written for this project: (question, reasoning, answer)."""

from __future__ import annotations

EXAMPLES = (
    (
        "A baker has 24 rolls. She sells 9 in the morning and bakes 12 more at noon. How many rolls"
        " does she have then?",
        "She starts with 24 rolls and sells 9, which leaves 24 - 9 = 15. Baking 12 more gives"
        " 15 + 12 = 27.",
        "27",
    ),
    (
        "Each of 6 shelves holds 8 books. 5 of all the books are lent out. How many books are on"
        " the shelves?",
        "The shelves hold 6 * 8 = 48 books. With 5 lent out there are 48 - 5 = 43.",
        "43",
    ),
    (
        "Nora buys 3 tickets at 14 dollars each and a poster for 7 dollars. She pays with a 50"
        " dollar note. How much change does she get?",
        "The tickets cost 3 * 14 = 42 dollars. With the poster she pays 42 + 7 = 49 dollars. Her"
        " change is 50 - 49 = 1 dollar.",
        "1",
    ),
    (
        "A train covers 180 kilometres in 3 hours. At the same speed, how far does it go in 5"
        " hours?",
        "Its speed is 180 / 3 = 60 kilometres an hour. In 5 hours it goes 60 * 5 = 300 kilometres.",
        "300",
    ),
    (
        "Half of the 36 pupils of a class play football, and a third of those who do also swim. How"
        " many pupils do both?",
        "Half of 36 is 36 / 2 = 18 pupils. A third of them is 18 / 3 = 6.",
        "6",
    ),
    (
        "Omar earns 15 dollars an hour. He works 4 hours on Saturday and twice as long on Sunday."
        " How much does he earn on the weekend?",
        "On Sunday he works 4 * 2 = 8 hours, so 4 + 8 = 12 hours in all. He earns 12 * 15 = 180"
        " dollars.",
        "180",
    ),
    (
        "A jacket costs 80 dollars and is reduced by 25%. What is its price now?",
        "The reduction is 80 * 25 / 100 = 20 dollars. The price is 80 - 20 = 60 dollars.",
        "60",
    ),
    (
        "Lena is 4 years older than Tim, and together they are 30 years old. How old is Tim?",
        "Without the 4 extra years both would be as old as Tim, together 30 - 4 = 26 years. So Tim"
        " is 26 / 2 = 13 years old.",
        "13",
    ),
)
