"""Words of praise and complaint that reviews use and an English lexicon of adjectives does not know."""


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _scored(score: float, words: str) -> dict[str, float]:
    return dict.fromkeys(words.split(), score)


PLAIN = _words(
    "base kind behind thick rose more whole cold wet dry fit other new first same many much full own"
    " right left long last few little small big high low early hot green black red white dark heavy"
    " hard real sure able main safe ok average like most next common general cheap fresh round deep"
    " late old young very ready open clear quick"
)
"""Words that TextBlob scores, but which only describe goods."""

WORDS = (
    _scored(
        0.8, "loves recommend recommended flawless flawlessly delighted happier favourite favorite bargain"
    )
    | _scored(0.6, "sturdy comfy gorgeous thanks thank durable reliable cosy cozy pleased impressed evenly")
    | _scored(
        0.4, "works working quiet silent survived solid smooth smoothly finally crisp sharp grippy easily"
    )
    | _scored(
        -0.8, "refund scam defective faulty unusable rubbish junk crap avoid waste wasted garbage worthless"
    )
    | _scored(
        -0.7,
        "broke breaks leaked leaks leaking crashed crashes stopped died dead failed fails cracked"
        " cracks torn tore rusted rusty shattered ruined fell yellowed snapped jammed frozen",
    )
    | _scored(
        -0.5,
        "returned returning complaint peeling stains stained smells stinks noisy flimsy delayed"
        " unanswered missing overheats overheating wobbly crooked kinks scratched misleading false"
        " gone unfortunately sadly regret hurts itchy worse nope",
    )
    # German
    | _scored(
        0.7,
        "gut gute guter gutes super toll tolle klasse prima zufrieden begeistert empfehlenswert"
        " perfekt hervorragend besser spitze schön schöne leise stabil gerne wunderbar top"
        " ausgezeichnet geschmeidig freue",
    )
    | _scored(
        -0.7,
        "schlecht schlechte kaputt enttäuscht enttäuschend mangelhaft defekt reklamation leider"
        " zumutung billig abgebrochen undicht stinkt rostet unbrauchbar falsch stürzt ärgerlich"
        " gerissen",
    )
    # French
    | _scored(
        0.7,
        "bon bonne bien excellent excellente parfait parfaite génial ravie ravi recommande super"
        " fidèle solide pratique puissante puissant agréable magnifique facile",
    )
    | _scored(
        -0.7,
        "mauvais mauvaise nul nulle déçu déçue décevant retard cassé cassée horrible odeur fendu"
        " impossible panne dommage fuit bruyant mal défectueux remboursement",
    )
    # Spanish and Portuguese
    | _scored(
        0.7,
        "bueno buena buenas buenos excelente perfecto perfecta encanta encantan feliz contento"
        " recomiendo suave maravilla cómodo cómoda nítida nítido fácil genial tranquilos bom boa ótimo"
        " ótima perfeito perfeita adoro adorei recomendo bonito lindo linda inteiro",
    )
    | _scored(
        -0.7,
        "malo mala peor pésimo roto rota decepción decepcionado decepcionada defectuoso imposible"
        " usada atasca faltaban faltan devuelto devolución ruim péssimo péssima avariado quebrou"
        " quebrado chorar defeito decepção partiu devolver",
    )
    # Italian
    | _scored(
        0.7,
        "ottimo ottima perfetto perfetta buono buona benissimo bellissimo bellissima consiglio"
        " consigliato croccante densa miracolo comodo comoda soddisfatto soddisfatta fantastico",
    )
    | _scored(
        -0.7,
        "pessimo pessima rotto rotta peccato deluso delusa difettoso crepata crepato seccato scadente"
        " reso guasto",
    )
    # Dutch and Swedish
    | _scored(
        0.7, "goed goede heerlijk mooi mooie makkelijk tevreden aanrader fijn prachtig bra fin nöjd skön"
    )
    | _scored(-0.7, "slecht slechte kapot teleurgesteld helaas dålig dåligt trasig besviken tyvärr")
    # Polish, Czech and Turkish
    | _scored(
        0.7,
        "dobry dobra dobrze świetny świetnie świetna polecam rewelacyjny rewelacyjna super równo"
        " dokładnie idealny zadowolona zadowolony skvělý dobrý doporučuji spokojen güzel harika"
        " mükemmel memnun tavsiye",
    )
    | _scored(
        -0.7,
        "zepsuty zepsuta słaby słabo słaba zły źle niestety śmierdzieć śmierdzi wylogowuje reklamacja"
        " pękł pękła rozczarowanie špatný rozbitý kötü bozuk iade maalesef berbat kırık",
    )
    # Russian and Ukrainian
    | _scored(
        0.7,
        "хорошо хороший хорошая отлично отличный отличная прекрасно помогает рекомендую доволен"
        " довольна супер добре гарний гарна чудово дякую справді удобно удобный красивый",
    )
    | _scored(
        -0.7,
        "плохо плохой плохая ужасно ужасный сломался сломалась протекает брак возврат разочарован"
        " зламалась зламався погано поганий жахливо розлився воняет",
    )
)
"""Whole words in lower case."""

PIECES = (
    _scored(0.7, "좋아 좋은 좋네 훌륭 만족 추천 최고 예쁜 예뻐 부드럽 편해 편리 맛있")
    | _scored(-0.7, "나쁜 별로 최악 실망 고장 불만 환불 교환 불량 헛돌 안돼 시끄러")
    | _scored(
        0.7, "好き 良い 最高 満足 おすすめ 気に入 よかった おいしい 面白い 便利 使いやす 洗いやす きれい"
    )
    | _scored(-0.7, "悪い 最悪 残念 壊れ 効かなく 返品 不良 つぶれ 足りません うるさ 返事がありません")
    | _scored(0.7, "很好 喜欢 满意 推荐 很棒 实用 不错 舒服 好用 很香 方便")
    | _scored(-0.7, "很差 失望 坏了 刺鼻 破了 太硬 退货 难用 质量差 味道大 不值")
    | _scored(0.7, "مريح أنصح ممتاز رائع جميل أنيق بسرعة سهل")
    | _scored(-0.7, "سيء سيئ رديء مزعج أعدتها مكسور سيئة")
    | _scored(0.7, "अच्छी अच्छा बढ़िया शानदार ดี แข็งแรง คุ้ม ง่าย נעים מעולה מומלץ טוב")
    | _scored(-0.7, "खराब बेकार टूट แย่ พัง เสีย גרוע שבור מאכזב")
)
"""Pieces of words, for scripts that do not set words apart or bend them."""

FACES = _scored(0.8, "😊 😀 😃 😄 😁 😍 🥰 😘 👍 🎉 💛 💚 💙 🧡 💜 ❤ ⭐ 🌟 ✨ 🙌 👌 🤩 💯") | _scored(
    -0.8, "😡 😠 🤬 👎 😞 😢 😭 😤 💔 🤮 🤢 😒 😩 🙄 ☹ 🚫 🗑"
)

NEGATIONS = _words(
    "not no never nothing without nicht kein keine nie ohne pas rien sans sin nunca não nada sem non"
    " nessun mai niet geen inte nie bez не без"
)
"""Words that deny one of the two words after them."""

TURNS = _words(
    "but however though although except yet aber jedoch allerdings abzug mais cependant revanche pero"
    " aunque ma però peccato mas porém maar echter men ale jednak lecz но однако але ama fakat"
)
"""Words after which a text says the opposite."""

TURNING_PIECES = ("但", "就是", "ただ", "けど", "지만", "는데", "لكن", "लेकिन", "แต่", "אבל")
"""The same in scripts that do not set words apart."""
