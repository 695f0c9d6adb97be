"""Words that head columns and lines of forms in office documents, in the languages that are met most."""

from __future__ import annotations

import re

_WORDS = frozenset(
    """
    account action active activity address age amount
    area article assignee author authors balance batch begin
    birthday branch brand budget building category cause channel city class client code colour color column
    comment comments company condition contact contract cost costs count country course created credit
    currency customer date day days debit deadline delivery department deposit description destination
    discount district due duration email e-mail employee end
    entry event expires extension fax fee field file
    first firstname flow from gender grade group headline height hour hours id identifier iban income index
    info instructor invoice issue item job key kind label language last lastname length level line link
    location lot mail manager max meaning measure member membership message method min minutes model month
    name nationality net next no no. note notes number nr nr. nº object office open opened opening order
    organisation organization origin owner parameter part
    participant participants parts payee payment percent
    percentage period person phone place plan plant
    platform points port position post postcode price priority
    process product profession project property purchased purpose qty quantity quarter question rank rate
    rating reason receiver ref reference region remark remarks rent responsible result revenue role room row
    salary sales score seat section sector sender serial service setting shelf shift size sku source speaker
    species stage start state station status step stock street subject sum supplier surname symbol task tax
    team telephone term test text time title to topic total town transaction trip type unit units until
    updated url usage use user username value vat
    vehicle vendor version via volume warehouse warranty website
    week weight width winner year years zip answer capacity captain chapter checked component driver feature
    hall host landlord lessee lessor limit lessons
    manufacturer opponent population stop tenant teacher track
    trainer venue variant warden vorname nachname anzahl artikel artikelnummer beschreibung bemerkung
    bemerkungen betrag bezeichnung buchung buchungstag buchungstext beginn bestand datum dauer einheit
    einzelpreis ende empfänger empfaenger faktor fällig firma frist funktion gebühr gesamt gesamtpreis
    geburtsdatum gruppe hersteller kategorie kennzeichen konto kontonummer kosten kunde kundennummer land
    lager lieferant mitarbeiter menge miete monat nummer
    ort plz posten preis produkt rechnung rechnungsnummer
    saldo straße strasse stadt stück stückzahl summe tag telefon titel typ uhrzeit umsatz verwendungszweck
    valuta währung wert wohnort woche zahl zeit zeitraum zimmer zuständig abteilung adresse anschrift
    ansprechpartner aufgabe leiter leitung verantwortlich nom
    prénom prenom ville pays montant libellé libelle
    quantité quantite prix désignation designation référence téléphone courriel statut catégorie categorie
    début debut fin durée duree année annee mois jour fournisseur produit solde débit débiteur crédit unité
    remarque remarques taux nombre apellido apellidos
    fecha importe cantidad precio dirección direccion ciudad
    país pais teléfono telefono estado cliente producto descripción descripcion concepto código codigo tipo
    nome cognome data importo quantità quantita prezzo
    indirizzo città citta descrizione prodotto naam bedrag
    aantal prijs adres plaats omschrijving klant telefoon imię imie nazwisko nazwa kwota ilość ilosc cena
    miasto opis uwagi numer klient имя фамилия дата сумма цена город адрес телефон количество описание номер
    название товар единица примечание 商品 価格 在庫 名前 日付 数量 金額 住所 電話
    電話番号 部署 氏名 备注 名称 价格 日期 姓名 部门 电话 地址 城市 编号 金额
    状态 类型 型号 职位 单价 合计
    """.split()
)
_WORD = re.compile(r"[^\W_]+(?:[-.]\w+)*\.?|\w+")


def names_column(text: str) -> bool:
    """Return whether a short text is a name of a column, or ends or begins with one.

    >>> [names_column(text) for text in ("Unit price (EUR)", "Invoice no.", "Berta Quill")]
    [True, True, False]
    """
    words = [word.casefold() for word in _WORD.findall(text.partition("(")[0])]
    if not 1 <= len(words) <= 4:
        return False
    words += [word.rstrip(".") for word in words]
    single = words[0].split("_") + words[-1].split("_")
    return not any(char.isdigit() for char in text) and any(word in _WORDS for word in {*words, *single})
