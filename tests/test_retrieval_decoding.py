"""Text files are read in the encoding they were saved in."""

from __future__ import annotations

import pytest

from chains.retrieval.errors import BinaryDocument, EmptyDocument
from chains.retrieval.parsers.decoding import codec_of, decode, decode_with_doubt

SENTENCES = {
    "de": "Die Wäscherei öffnet um acht Uhr. Größere Stücke werden gewaschen, fügte Frau Müller hinzu.",
    "fr": "La réunion aura lieu le 6 février à Besançon, et le budget a été dépensé l'année dernière.",
    "es": "La reunión será mañana a las ocho. ¿Quién traerá el café? El señor Núñez pagará.",
    "da": "Mødet begynder klokken ti på torsdag. Rødgrød med fløde koster femten kroner på cafeen.",
    "pl": "Szkoła zaczyna się o ósmej. Świetlica jest czynna do piątej po południu, zaś żłobek dłużej.",
    "cs": "Příští schůze se koná ve čtvrtek v šest hodin. Žádáme všechny členy, aby přišli včas.",
    "hu": "A könyvtár csütörtökön zárva tart. Az őszi időszakban öttől hétig látogatható, űrlapot kérünk.",
    "tr": "Şirketin yıllık toplantısı on beş Mayıs'ta yapılacak. Güneşli günlerde bahçe açıktır.",  # noqa: RUF001
    "en": "The café’s rent — £1,150 — is due “on time”. It’s more in June.",  # noqa: RUF001
    "ru": "Маяк построили в 1908 году. Смотрителя звали Егор Тихонов, он жил там сорок лет.",  # noqa: RUF001
    "el": "Το μουσείο ανοίγει στις εννέα το πρωί και κλείνει στις πέντε το απόγευμα.",  # noqa: RUF001
    "he": "החנות נפתחת בשבע בבוקר. היא נסגרת בשבע בערב ביום שישי.",
    "ar": "رسوم الاشتراك ثلاثمئة دينار. مدير النادي هو سامي حداد ويعمل كل يوم.",
    "ja": "図書館は木曜日に休みます。りんごの価格は百二十五円です。",
    "zh": "每周二闭馆。羽毛球场每小时三十五元,中心主任是陈雨桐。",
    "tw": "圖書館每週二休館。羽毛球場每小時三十五元,中心主任是陳雨桐。",
    "ko": "도서관은 목요일에 쉽니다. 사과의 가격은 백이십오 원입니다.",
}
SAVED_AS = (
    "de cp1252,de cp850,fr cp1252,fr cp850,es cp1252,es cp850,da cp1252,da cp850,pl cp1250,pl iso8859_2,"
    "cs cp1250,hu cp1250,tr cp1254,en cp1252,en mac_roman,ru cp1251,ru koi8_r,ru cp866,el cp1253,he cp1255,"
    "ar cp1256,ja cp932,ja euc_jp,ja iso2022_jp,zh gb18030,tw big5,ko euc_kr"
).split(",")
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


@pytest.mark.parametrize("case", SAVED_AS)
def test_a_sentence_in_a_code_page_of_its_language_is_read(case: str) -> None:
    language, encoding = case.split()
    assert decode("a.txt", SENTENCES[language].encode(encoding)) == SENTENCES[language]


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("language", ["en", "fr", "ru", "zh"])
def test_wide_encodings_are_read_without_a_byte_order_mark(encoding: str, language: str) -> None:
    text = f"1. {SENTENCES[language]}\n2. {SENTENCES[language]}"
    assert decode("a.txt", text.encode(encoding)) == text


def test_a_declared_encoding_counts_unless_the_bytes_are_utf_8() -> None:
    assert decode("a", "Größe".encode("cp1250"), "windows-1250") == "Größe"
    assert decode("a", "Größe".encode(), "iso-8859-1") == "Größe"
    assert decode("a", SENTENCES["ja"].encode("iso2022_jp"), "ISO-2022-JP") == SENTENCES["ja"]
    assert decode("a", "naïve".encode("cp1252"), "utf-8") == "naïve"


def test_labels_of_the_web_are_known() -> None:
    labels = {
        "latin1": "cp1252",
        "x-sjis": "cp932",
        "ks_c_5601-1987": "cp949",
        "gb2312": "gb18030",
        "utf8": "utf-8",
    }
    assert {label: codec_of(label) for label in labels} == labels
    assert codec_of("no such thing") is None


def test_what_cannot_be_read_with_confidence_is_said() -> None:
    assert decode_with_doubt("a", "Zoë".encode()).doubt == ""
    text, doubt = decode_with_doubt("a", SENTENCES["ru"].encode()[:-4] + b" end")
    assert text.startswith("Маяк") and text.endswith("end") and "1 characters" in doubt


def test_pictures_and_nothing_are_refused() -> None:
    with pytest.raises(BinaryDocument):
        decode("a", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\6")
    with pytest.raises(EmptyDocument):
        decode("a", b" \r\n\t")
