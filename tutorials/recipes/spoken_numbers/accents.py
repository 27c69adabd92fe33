"""How voices of other languages say the English digits: spelled as in their language.

These are festival's voices in Debian: festvox-itapc16k, -ca-ona-hts, -czech-dita, -czech-krb,
-czech-machac, -czech-ph, -suopuhe-lj, -suopuhe-mv, and -te-nsk with festival-te. Their licences are
the GPL, the LGPL or BSD-like.
"""

ITALIAN = ["ziro", "uan", "tu", "tri", "for", "faiv", "sics", "seven", "eit", "nain"]
CATALAN = ["zirou", "uan", "tu", "tri", "for", "faiv", "sics", "seven", "eit", "nain"]
CZECH = ["zirou", "van", "tu", "tri", "for", "fajv", "siks", "sevn", "ejt", "najn"]
FINNISH = ["siirou", "uan", "tuu", "trii", "foor", "faiv", "siks", "seven", "eit", "nain"]
TELUGU = ["జీరో", "వన్", "టూ", "త్రీ", "ఫోర్", "ఫాయివ్", "సిక్స్", "సెవెన్", "ఎయిట్", "నాయిన్"]

ACCENTS = {
    "pc_diphone": ITALIAN,
    "upc_ca_ona_hts": CATALAN,
    "czech_dita": CZECH,
    "czech_krb": CZECH,
    "czech_machac": CZECH,
    "czech_ph": CZECH,
    "suo_fi_lj_diphone": FINNISH,
    "hy_fi_mv_diphone": FINNISH,
    "telugu_NSK_diphone": TELUGU,
}
