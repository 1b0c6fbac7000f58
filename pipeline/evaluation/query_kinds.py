"""What a sentence asks for: an action, an object, a scene, or something documented, by rules over a small lexicon.

    action       something is done or happens: "a woman cuts a melon"
    object       somebody or something is there, or looks a certain way: "a man wears a black hat"
    scene        a place, a view, the weather as a whole: "view of the beach at sunset"
    documented   it is told or presented to the viewers, or the picture is a document: "a reporter talks about rain"

The rules find the verbs of the sentence and read the first of the main clause that is more than a state (sits,
wears, holds); where there is none, the noun that the sentence opens with decides. The guide behind the kinds, and how
often the rules agree with labels made by reading, are in docs/query_kinds.md. English only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["action", "object", "scene", "documented"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Verbs, as stems. An unknown word in -ing, or in -s after a person, counts as an action.
TELL = words_of(
    """address announce brief broadcast comment demonstrate describe detail discuss explain express highlight interview
    introduce lecture mention monologue narrate present promote recommend report review say speak suggest summarise
    summarize talk teach tell vlog"""
)
SHOW = words_of("display share show showcase")
CHAT = words_of("argue chat converse gossip")
STATE = words_of(
    """appear be contain crouch depict face feature have hold kneel lay lean lie line live lounge overlook own park
    pose relax remain rest seat sit sleep sport sprawl squat stand stay surround tower wear"""
)
ASPECT = words_of("begin continue keep proceed start try")
ACT = words_of(
    """answer apply arrange arrive ask awaken bake board break bring brush build buy call carry celebrate change check
    chop clap clean climb close come cook cover crawl cross cry cut dance dip do dress drink drive eat enjoy enter
    exercise exit explore fall feed fight finish fire fix flip float fly fold follow gather gesture get give go grab
    greet groom grow hand handle hang head help hike hit hug hunt interact jump kick kiss laugh lead learn leave let
    lift light listen load look make march measure meet melt mix move open order pace pack pass peel perform pet
    pick place play point pour practice pray prepare protest pull push put race reach read receive record ride roll
    run scrub see serve set shake shave shop sing skate ski slice slide smell smile smoke spin spray squeeze step
    stir stop stretch style sweep swim swing take taste throw tour travel turn unbox undress unload unpack unwrap
    use visit wake walk wash watch wave wipe work wrap write"""
)
VERBS = TELL | SHOW | CHAT | STATE | ASPECT | ACT
MODAL = words_of("can could may might will would")
BE = words_of("is are was were be being been") | MODAL
PAST = """ate:eat began:begin broken:break came:come cut:cut driven:drive drove:drive eaten:eat fed:feed fell:fall
    gave:give given:give got:get had:have has:have having:have held:hold left:leave lying:lie made:make put:put
    ran:run rode:ride said:say sat:sit saw:see seen:see shown:show spoke:speak stood:stand taken:take threw:throw
    thrown:throw told:tell took:take tying:tie went:go woken:wake wore:wear worn:wear"""
IRREGULAR = dict.fromkeys(BE, "be") | dict(pair.split(":") for pair in PAST.split())
RESULT = words_of(
    """arranged built called closed covered crowded decorated displayed dressed excited featured filled injured left
    lined located made packed painted parked placed seated seen set shown stacked strapped surrounded tired written"""
)

# Nouns, in the singular.
DOCUMENT = words_of(
    """advertisement animation article caption cartoon chart credit diagram footage graph graphic headline image
    infographic list logo map montage news photo photograph picture presentation quote screen screenshot slide
    slideshow subtitle text title webpage website word writing"""
)
SHOT = words_of("camera clip close-up closeup scene shot tape video vlog")
CLOSE = words_of("close overhead top")
VIEW = words_of("landscape panorama scenery skyline surroundings view vista")
AERIAL = words_of("aerial dash dashcam drone panoramic scenic")
PLACE = words_of(
    """airport area attraction balcony bar basement bathroom bay beach bedroom bridge building cabin cafe canyon castle
    cathedral church city cliff cloud coast country countryside desert driveway entrance exterior farm field
    flooding forest fountain garden gym hallway harbor highway hill home horizon hotel house interior island jungle
    kitchen lake landmark library lobby mall market monument mosque mountain museum neighborhood ocean office palace
    park path pool port resort restaurant river road room runway sea shop sight sky skyscraper snow square stadium
    station store street suite sunrise sunset temple terrace town trail tunnel valley village waterfall way weather
    yard zoo"""
)
HAPPENING = words_of(
    """adventure birthday celebration ceremony concert day explosion festival game gunfire journey life match parade
    party performance protest race storm tour trip vacation wedding"""
)
COLLECTION = words_of(
    """array bunch collection couple display group kind lot number pair part piece row selection series set sort stack
    type variety"""
)
PERSON = words_of(
    """adult anchor asian audience baby boy brother chef child children couple crowd dad daughter doctor driver family
    father female friend girl graduate group guy he husband i journalist kid lady male man men mom mother mum
    officer people person player police president reporter she singer sister somebody someone son student team teen
    teenager they tourist vlogger we who wife woman women worker you"""
)
NOUNS = DOCUMENT | SHOT | VIEW | PLACE | HAPPENING | COLLECTION | PERSON

# Function words, and what does not make a verb.
DETERMINER = words_of(
    """a an another any different each every five four her his it's its many my no other our several some that the
    their these this those three two various your"""
)
PREPOSITION = words_of(
    """about above across against along among around at behind below beside between by down during for from in inside
    into like near of off on onto out outside over past through to toward towards under up upon with within without"""
)
PRONOUN = words_of("he i she they we you")
PARTICLE = words_of("away down off out up")
SUBORDINATOR = words_of("after as because before until when where whilst while")
ADJECTIVE = words_of(
    """beige big black blond blonde blue brown clear colorful dark gold gray green grey indoor large light long old
    orange outdoor pink plaid purple red short silver small striped tan white yellow young"""
)
PLURAL = words_of("all and both children couple crowd family group i kids men people police they we who women you")
BEFORE_NOUN = DETERMINER | PREPOSITION | ADJECTIVE
BEFORE_GERUND = (DETERMINER - {"her"}) | ADJECTIVE | words_of("about by for from in into like of to with without")
FUNCTION = BEFORE_NOUN | PLURAL | SUBORDINATOR | BE | {"then"}
NO_GERUND = words_of(
    """amazing anything bathing boxing breathtaking building clothing covering during evening everything flooding
    interesting lighting matching morning nothing parking railing something spring string stunning thing wedding"""
)
COMPOUND = words_of("area bag board clothes lot machine mall pool room store table trail")

# Phrases, matched at a verb (IN_STATE to TALKS) or in what follows it.
IN_STATE = re.compile(r"(?:hang|hung)\w* out|looks? like")
MOVES = re.compile(r"(?:sit|sat|stand|stood|lie|lay)s? (?:down|up)")
EATS = re.compile(
    r"(?:ha[sdv]|share)\w* (?:\S+ ){0,3}?(?:argument|breakfast|brunch|chat|coffee|competition|conversation|dinner|"
    r"drinks?|food|fun|hug|kiss|laugh|lunch|meal|meeting|party|photoshoot|picnic|snack|tea|time)\b"
)
TALKS = re.compile(
    r"(?:g[ai]v|do|mak|deliver|conduct|hold|ha[sv]|tak|get|record)\w* (?:\S+ ){0,4}?(?:advice|briefing|demonstration|"
    r"explanation|instruction|interview|introduction|lecture|message|monologue|opinion|overview|presentation|"
    r"press conference|review|speech|summary|talk|tip|tour|tutorial|update)s?\b|go\w* over (?:the|her|his|their) "
)
ABOUT = re.compile(r"\babout\b")
EACH_OTHER = re.compile(r"(?:to|with) (?:each other|one another)")
TO_A_PARTNER = re.compile(r"(?:\w+ly )?(?:(?:to|with) |together|on (?:\w+ )?(?:cell ?)?phone)")
VIEWERS = re.compile(r"\b(?:camera|viewers?|audience|us|subscribers?|mic|microphone|crowd|people|reporters?|press)\b")
TO_THE_CAMERA = re.compile(r"\b(?:to|towards?|at|for|in front of) (?:the )?(?:camera|viewers?)\b")
ENDINGS = (("s", ""), ("es", ""), ("ies", "y"))  # of plural nouns, and of their singular
LONGEST = 100  # words read of a sentence


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of the sentence."""

    at: int
    """Its position in the words."""
    stem: str
    finite: bool
    """False for a bare participle: 'walking' in 'a man walking home talks'."""
    passive: bool = False
    """'is interviewed', 'are parked'."""


def stems(word: str) -> list[str]:
    """The stems that a form could have: 'cutting' -> cutting, cutt, cutte, cut."""
    if word in IRREGULAR:
        return [IRREGULAR[word]]
    forms = [word]
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word.removesuffix(ending)
            forms += [stem, stem + "e"] + [stem[:-1]] * (stem[-1] == stem[-2]) + [stem[:-1] + "y"] * (stem[-1] == "i")
    return forms


def known(word: str, verbs: frozenset[str]) -> str | None:
    return next((stem for stem in stems(word) if stem in verbs), None)


def noun_of(word: str, nouns: frozenset[str]) -> str | None:
    """The singular of the word where it is one of the nouns."""
    singulars = [word[: -len(end)] + y for end, y in ENDINGS if len(word) > 3 and word.endswith(end)]
    return next((noun for noun in (word, *singulars) if noun in nouns), None)


def plural(word: str) -> bool:
    return word in PLURAL or (word.endswith("s") and not word.endswith("ss"))


def verb_at(words: list[str], i: int) -> Verb | None:
    """The verb at position i, or None where the word is none."""
    word = words[i]
    earlier, before, after = (words[j] if 0 <= j < len(words) else "" for j in (i - 2, i - 1, i + 1))
    if word in BE:
        return Verb(i, "be", True)
    stem = known(word, VERBS)
    by_person = bool(noun_of(before, PERSON)) or before.endswith("ly")
    auxiliary = before in BE or (earlier in BE and before not in BEFORE_NOUN)
    if word.endswith("ing") and len(word) > 4 and word not in NO_GERUND:
        noun = after in BE or ((after in COMPOUND or noun_of(after, VIEW)) and not auxiliary and not by_person)
        return None if noun or before in BEFORE_GERUND else Verb(i, stem or word, auxiliary)
    participle = word.endswith("ed") and len(word) > 3 and word not in ADJECTIVE
    if auxiliary and (participle or word in RESULT or word in IRREGULAR):
        return Verb(i, stem or word, True, True)
    dressed = earlier == "in" and before in ADJECTIVE  # "a woman in pink eats"
    if before in BEFORE_NOUN and not (stem and (dressed or before in PARTICLE)):
        return None
    if i == 0:
        return Verb(i, stem, True) if stem and plural(word) and after in DETERMINER else None
    if word in RESULT and after not in DETERMINER:
        return None
    if word.endswith("ed") or word in IRREGULAR:
        relative = before in PRONOUN and earlier and earlier not in FUNCTION  # "the dish she ordered"
        return Verb(i, stem or word, not relative) if by_person or before in ("and", "then") else None
    if word.endswith("s") and not word.endswith("ss"):
        unknown = not noun_of(word, NOUNS) and (by_person or before in SHOT or after in DETERMINER | PARTICLE)
        return Verb(i, stem or word, True) if stem or unknown else None
    if stem and (plural(before) or by_person or before in MODAL):
        return Verb(i, stem, True)
    if stem and (after in DETERMINER or stem in TELL) and any(plural(w) and noun_of(w, PERSON) for w in words[:i]):
        return Verb(i, stem, True)
    if plural(before) and by_person and after in BEFORE_NOUN and word not in FUNCTION and not noun_of(word, NOUNS):
        return Verb(i, word, True)
    return None


def opening(words: list[str], verbs: list[Verb]) -> tuple[str, int]:
    """The noun that the sentence opens with, in the singular where it is known, and the position after it.

    'A lot of red cars are parked' opens with 'cars': of collections, what is collected counts.
    """
    start, first = 0, verbs[0].at if verbs else len(words)
    while (end := next((i for i in range(start, first) if words[i] in PREPOSITION | SUBORDINATOR), first)) > start:
        noun = noun_of(words[end - 1], NOUNS) or words[end - 1]
        if noun not in COLLECTION or words[end : end + 1] != ["of"]:
            return noun, end
        start = end + 1
    return "", start


def reading(verb: Verb, words: list[str], subject: str) -> Kind | None:
    """The kind that a verb asks for, or None where it is a mere state."""
    stem, rest = verb.stem, " ".join(words[verb.at + 1 :])
    phrase = f"{words[verb.at]} {rest}"
    if stem in ASPECT and verb.at + 2 < len(words):  # "starts talking", "tries to explain"
        if words[verb.at + 1].endswith("ing"):
            return None
        return "documented" if rest.startswith("to ") and known(words[verb.at + 2], TELL) else "action"
    if TALKS.match(phrase) or (stem == "hold" and TO_THE_CAMERA.search(rest)):
        return "documented"
    if stem in TELL:
        partner = stem in ("talk", "speak") and TO_A_PARTNER.match(rest) and not ABOUT.search(rest)
        return "action" if partner and (EACH_OTHER.match(rest) or not VIEWERS.search(rest)) else "documented"
    if stem in CHAT:
        return "documented" if ABOUT.search(rest) else "action"
    if EATS.match(phrase) or MOVES.match(phrase):
        return "action"
    if stem in SHOW and not verb.passive:
        thing = subject in NOUNS - PERSON or (plural(subject) and not noun_of(subject, PERSON))
        return None if thing else "documented"
    state = stem in STATE or IN_STATE.match(phrase) or (verb.passive and words[verb.at] in RESULT)
    return None if state else "action"


def kind_of_words(words: list[str]) -> Kind:
    """The kind of a sentence in lower-case words, without leading adverbials."""
    verbs = [verb for i in range(len(words)) if (verb := verb_at(words, i))]
    subject, end = opening(words, verbs)
    if subject in DOCUMENT or (subject in SHOT and {"selfie", "news"} & set(words[:end])):
        return "documented"
    shot = subject in SHOT or (subject in VIEW and CLOSE & set(words[:end]))
    if AERIAL & set(words[: max(end - 1, 0)]) or (subject in VIEW | PLACE and not shot):
        return "scene"
    if shot and end < len(words):  # what the camera shows decides
        shown = next((i for i in range(end + 1, len(words)) if words[i] not in PREPOSITION - {"inside"}), len(words))
        return kind_of_words(words[shown:])
    main_end = next((i for i, word in enumerate(words) if i and word in SUBORDINATOR), len(words))
    start = next((n for n, verb in enumerate(verbs) if verb.finite and verb.at < main_end), 0)
    for verb in verbs[start:] + verbs[:start]:
        if kind := reading(verb, words, subject):
            return kind
    if subject in HAPPENING:
        return "action"
    inside = words[:1] != [] and words[0] in PREPOSITION and all(verb.stem == "be" for verb in verbs)
    return "scene" if inside else "object"


def kind_of(sentence: str) -> Kind:
    """The kind of one sentence. A sentence of which the rules know nothing is 'object'."""
    text = re.sub(r"\bclose[ -]?ups?\b", "close-up", sentence.lower().replace("\u2019", "'"))
    if text.split(" ")[0] in SUBORDINATOR | PREPOSITION and "," in text:  # "After the meal, a woman ..."
        text = text.split(",", 1)[1]
    text = re.sub(r"^\W*there (?:is|are|was|were) ", "", text)
    return kind_of_words(re.findall(r"[a-z0-9][a-z0-9'-]*", text)[:LONGEST])
