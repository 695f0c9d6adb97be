"""Sort a mailbox: each message gets a label, its probability, and the sentence that speaks for it.

The labels are described in words; a few corrected examples make them better. Below the asked-for confidence a
message is left for a person to look at.
"""

from __future__ import annotations

import email
from email.message import Message

from chains import classify_chain
from chains.retrieval import default_embeddings

LABELS = {
    "invoice": "a bill to pay, with an amount and a due date",
    "appointment": "a meeting, a visit or a date to agree on",
    "complaint": "someone is unhappy with what they bought and wants it put right",
    "newsletter": "news and offers sent to many readers",
}
CORRECTED = {
    "invoice": ["Attached is our bill number 17, payable within two weeks."],
    "newsletter": ["Our June news: what is in bloom, and two for one on all roses this week!"],
    "appointment": ["Would Thursday at ten suit you for the visit?"],
    "complaint": ["The second delivery was broken as well, I would like my money back."],
}
MAILBOX = [
    "Subject: Bill 2041 for March\n\nPlease pay the amount of 148.20 for our services by 30 April.",
    "Subject: Tuesday\n\nCould we meet on Tuesday at three to go through the plans?",
    "Subject: Kettle\n\nThe kettle I bought from you leaks. Please send another or refund me.",
    "Subject: Spring\n\nThis month: ten plants for dry soil, 20 % off all seeds until Sunday!",
    "Subject: hm\n\nSee attachment.",
]


def body(message: Message) -> str:
    """The text of a message with its subject."""
    return f"{message['subject']}. {message.get_payload()}"


def main() -> None:
    """Label each message of the mailbox."""
    chain = classify_chain(
        None, LABELS, embeddings=default_embeddings(), examples=CORRECTED, abstain_below=0.5, explain=True
    )
    messages = [email.message_from_string(text) for text in MAILBOX]
    for message, found in zip(messages, chain.batch([body(one) for one in messages]), strict=True):
        label = found.label or "for a person to look at"
        print(f"{message['subject']:22} {label:24} {found.confidence:4.0%}  {found.evidence or ''}")


if __name__ == "__main__":
    main()
