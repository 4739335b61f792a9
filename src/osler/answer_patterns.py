"""The wordings that `osler.answers` knows: letters, statements, doubts and refusals, in several languages.

Patterns only; what follows from a match is decided in `osler.answers`. Every quantifier that could cross
long white space is bounded, so that one pass over any text stays linear. What is not known here is not
read: a statement in an unknown language is unparsed, never guessed at.
"""

from __future__ import annotations

import re

# Scripts without spaces between words: there a Latin letter stands alone between two of their signs.
UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD_SIGN = rf"[^\W{UNSPACED}]"

GAP = r"\s{0,8}"
_LATEX = r"\\(?:boxed|text|textbf|mathrm)\{"
_OPEN = rf"(?:[#>\-•]{{1,3}}\s{{1,3}})?[(\[{{*_\"'`$「『【]{{0,4}}(?:{_LATEX}){{0,2}}"
_CLOSE_SIGNS = r")\]}*_\"'`.:,;!$。、」』】"

TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
WRAPPED_LETTER = re.compile(
    rf"{_OPEN}{GAP}(?:(?:(?:option|choice|answer|letter)\s{{1,8}}|选项\s?){_OPEN})?([A-Za-z])"
    rf"{GAP}[{_CLOSE_SIGNS}]{{0,6}}",
    re.IGNORECASE,
)
LETTER_AND_TEXT = re.compile(
    rf"{_OPEN}(?:(?:option|choice)\s{{1,8}}{_OPEN})?([A-Za-z])([)\]}}*_\"'`.:,\-–—、\s]{{1,8}})(\S.*)",
    re.DOTALL | re.IGNORECASE,
)
TEXT_AND_LETTER = re.compile(rf"(\S.*?){GAP}[(\[]([A-Za-z])[)\]][.*_\"'`]{{0,3}}", re.DOTALL | re.IGNORECASE)
# Dressing that makes no difference between two choice texts.
DRESSING = re.compile(rf"{_LATEX}|[{{}}$]")

_SURELY = r"(?:(?:most |very )?(?:likely|probably|clearly|certainly|definitely|therefore|thus|simply)\b)?"
_NOUN = (
    "Antwort|réponse|respuesta|resposta|risposta|antwoord|odpowiedź|cevap|yanıt|ответ|đáp án"
    "|jawaban(?:nya)?|الإجابة|الجواب|उत्तर"
)
_ADJECTIVE = "correct[ea]|correta|corretta|exacte|juste|esatta|giusta|certa|finale?|đúng|الصحيحة"
_COPULA = "ist|lautet|est|es|é|è|is|to|là|adalah|هي"
_ARTICLE = r"(?:(?:donc |also )?(?:la|die|a)\s{1,3})?(?:(?:letra|lettre|lettera|opción|opção)\s{1,3})?"
# What leads up to an answer: "the answer is", "Antwort:", "答案是", "I choose", a LaTeX box.
LEAD = re.compile(
    rf"\b(?:answer|ans|choice|option)\b[*_\"']{{0,4}}{GAP}"
    rf"(?:(?:is|would be|should be|must be)\b{GAP}{_SURELY}{GAP}:?|[:=])[*_]{{0,4}}{GAP}"
    rf"|\bI(?:['’](?:d|ll))?{GAP}(?:would{GAP}|will{GAP})?(?:choose|select|pick|go with)\b{GAP}"
    rf"|\b(?:{_NOUN})(?:\s(?:{_ADJECTIVE})\b)?[*_]{{0,4}}"
    rf"(?:{GAP}[:=—–]|\s{{1,3}}(?:{_COPULA})\b{GAP}:?){GAP}{_ARTICLE}[*_]{{0,4}}"
    rf"|(?:答案|正解|答え|解答|回答)(?:应该|应|應該)?(?:是|为|為|は|:){GAP}"
    rf"|选择?[是:]?{GAP}"
    rf"|(?:정답|답)(?:은|:){GAP}"
    r"|(?=\\boxed\{)",
    re.IGNORECASE,
)
IS_CORRECT = re.compile(
    rf"(?<![\w'])([A-Z])[)\]*_\"'.]{{0,4}}{GAP}is{GAP}(?:the{GAP})?(?:correct|right|best|answer)\b"
)
# A letter behind a lead, with what may follow it: a stop, the end, a reason, "it is" in Japanese and Korean.
MENTION = re.compile(
    rf"{_OPEN}(?:(?:option|choice|letter)\s{{1,8}}{_OPEN})?([A-Z])"
    rf"(?=[{_CLOSE_SIGNS}।]|\s*$|\s{{1,8}}(?:because|since|as|due|based)\b"
    r"|(?:です|だ|である|입니다|이다|예요)(?:[。.\s]|$))"
)

NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|wrong|incorrect|if|unless|whether|could|might|may|unlikely|doubt)\b"
    r"|n['’]t\b"
    r"|\b(?:nicht|kein\w{0,2}|nie|wenn|pas|jamais|não|niet|не|если|không|nếu|tidak|bukan|değil|ليس\w{0,2})\b"
    r"|\bsi\s(?:la|le|el|a)\b|नहीं|[不没沒非若]|如果|もし|ない|아니",
    re.IGNORECASE,
)
REVERSAL = re.compile(
    r"\b(?:wait|actually|instead|correction|wrong|incorrect[oa]?|alternatively|reconsider\w{0,4}"
    r"|on second thought|falsch|faux|plutôt|en realidad)\b|不对|等等|其实",
    re.IGNORECASE,
)
TAKEN_BACK = re.compile(
    r"[\s,;.:)*\-–—。]{0,8}(?:\?|/|(?:or|but|however|nor|aber|mais|pero|oder|ou)\b|no\s{0,3},|但)",
    re.IGNORECASE,
)
# A capital letter on its own. "A lesion" and "I see" are words, "vitamin D", "B-mode" and "B超" (an
# ultrasound image) are terms; terms match without group 1.
LONE_LETTER = re.compile(
    r"\b(?i:hepatitis|vitamin|type|grade|stage|group|class|influenza|factor|segment)\s{1,3}[A-Z]\b"
    rf"|(?<!{_WORD_SIGN})(?<!['’])(?!A\s{{1,3}}(?!(?:or|and|nor|is)\b)[a-z])(?!I(?:['’]|\s{{1,3}}[a-z]))"
    rf"([A-Z])(?!{_WORD_SIGN}|['’]|-[a-z]|[超型])"
)
SENTENCE_END = re.compile(rf"[.;!?](?=\s|$|[{UNSPACED}])|[。।]")

_UNABLE = r"(?:cannot|can['’]?t|can not|unable to|not able to|won['’]t|will not|decline to)"
_SERVICE = r"(?:answer|provide|diagnose|assist|help|give|offer|comply|interpret|advise)"
_LOOK = r"(?:see|view|access|analy[sz]e|process) (?:the |this |any |your )?(?:image|picture|scan|file)s?"
_REST = r"[^.!?。！？\n]{0,40}?"
REFUSAL = re.compile(
    rf"\b(?:I|we|I['’]m|we['’]re|as an AI)\b[^.!?\n]{{0,60}}?\b{_UNABLE}\s{_REST}\b(?:{_SERVICE}|{_LOOK})\b"
    r"|\bas an AI\b[^.!?\n]{0,20}\bmodel\b"
    r"|\bI(?:['’]m| am) not (?:qualified|a (?:doctor|physician|radiologist))\b"
    rf"|\bich kann{_REST}\b(?:nicht|keine?)\b{_REST}\b(?:beantworten|stellen|geben|helfen)\b"
    rf"|\bje ne peux pas\b{_REST}\b(?:fournir|répondre|donner|aider)\b"
    rf"|\bno puedo\b{_REST}\b(?:proporcionar|responder|dar|ayudar)\b"
    rf"|(?:抱歉|我){_REST}(?:无法|不能|無法){_REST}(?:提供|回答|诊断|帮助)",
    re.IGNORECASE,
)
