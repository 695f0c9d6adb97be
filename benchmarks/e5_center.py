"""Compute the direction that all vectors of multilingual-e5-small share, and print it as JSON.

    python benchmarks/e5_center.py e5-small-q4.bin > chains/retrieval/e5_center.json

It is the mean of the unit vectors of sentences about many things, as queries and as passages. English has the
most sentences; German, French, Spanish, Italian, Portuguese, Dutch, Polish, Russian, Turkish, Arabic, Hindi,
Chinese, Japanese and Korean have one or two each.
"""

# ruff: noqa: RUF001 - letters of several scripts look alike.

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from chains.retrieval.e5 import E5

SENTENCES = """
The train to the coast leaves at nine from platform two.
Add the flour, the eggs and a pinch of salt, and stir until smooth.
The tenant pays the rent on the first day of each month.
A function that is called with no arguments returns the default value.
The patient was given antibiotics and recovered within a week.
Revenue rose by four percent while costs remained the same.
Two hikers were found unharmed after a night in the mountains.
Please reset the router by holding the button for ten seconds.
The treaty was signed in the spring and ratified a year later.
Water boils at a lower temperature at high altitude.
Minutes of the meeting: the budget was approved by all members.
She painted landscapes in oil until her eyesight failed.
The warranty covers parts and labour for twenty-four months.
Error: connection refused by host, retrying in five seconds.
How do I cancel my subscription?
Where is the nearest pharmacy?
What is the difference between a virus and a bacterium?
Who wrote the letter to the city council?
Der Vertrag kann mit einer Frist von drei Monaten gekündigt werden.
Wann fährt der letzte Bus zum Flughafen?
La bibliothèque est fermée le dimanche et les jours fériés.
Comment puis-je changer mon mot de passe ?
El hospital atiende a los pacientes por orden de llegada.
¿Cuánto cuesta la entrada para niños?
Il ristorante serve pesce fresco ogni venerdì.
O relatório deve ser entregue até o fim do mês.
De winkel is op maandag gesloten.
Rachunek należy zapłacić do końca miesiąca.
Поезд отправляется с третьего пути в восемь часов.
Toplantı yarın sabah saat dokuzda başlayacak.
يفتح المتحف أبوابه من التاسعة صباحا حتى الخامسة مساء.
كم يبلغ إيجار الشقة في الشهر؟
दुकान रविवार को बंद रहती है।
图书馆星期一至星期五开放。
合同的期限是两年。
会議は来週の火曜日に行われます。
회의는 내일 오전 아홉 시에 시작합니다.
""".strip().splitlines()


def main() -> None:
    """Print the mean vector."""
    encoder = E5(Path(sys.argv[1]), centered=False)
    queries = [encoder.embed_query(sentence) for sentence in SENTENCES]
    vectors = np.array([*encoder.embed_documents(SENTENCES), *queries])
    json.dump([round(float(value), 5) for value in vectors.mean(axis=0)], sys.stdout)


if __name__ == "__main__":
    main()
