"""Names like those of ImageNet's classes, made by a rule: one word in a fifth of them, two or three in the others."""

import random

_SINGLE = """
tench goldfish hammerhead stingray ostrich brambling goldfinch junco robin bulbul magpie chickadee kite
vulture axolotl bullfrog terrapin agama alligator triceratops trilobite harvestman scorpion tarantula
centipede ptarmigan peacock quail partridge macaw lorikeet coucal hornbill hummingbird jacamar toucan drake
goose tusker echidna platypus wallaby koala wombat jellyfish flatworm nematode conch snail slug chiton
flamingo bittern limpkin bustard dowitcher pelican albatross dugong papillon beagle bloodhound bluetick
redbone borzoi whippet otterhound saluki weimaraner vizsla kuvasz schipperke malinois briard kelpie komondor
rottweiler boxer affenpinscher basenji pug samoyed pomeranian keeshond dingo hyena cougar lynx leopard jaguar
cheetah mongoose meerkat weevil grasshopper cricket cicada leafhopper lacewing dragonfly damselfly monarch
starfish hare hamster porcupine marmot beaver sorrel zebra warthog hippopotamus bison ibex hartebeest impala
gazelle llama weasel mink polecat otter skunk badger armadillo orangutan gorilla chimpanzee gibbon siamang
baboon macaque langur colobus marmoset capuchin indri barracouta sturgeon lionfish abacus accordion ambulance
apiary apron backpack bakery balloon banister banjo barbell barbershop barn barometer barrel barrow baseball
basketball bassinet bassoon bathtub beacon beaker bearskin binder binoculars birdhouse boathouse bobsled
bonnet bookcase bookshop breakwater broom bucket buckle
"""
_MODIFIERS = """
great tiger electric indigo bald spotted tailed American frilled Komodo African thunder green king horned
diamond black garden wolf red white little European spiny fiddler Dungeness rock hermit Boston Siberian
Persian Siamese Egyptian polar brown sloth ring-necked sulphur-crested giant Irish English Welsh Scottish
Norwegian Australian Afghan Italian French Tibetan Japanese Mexican Arctic grey timber coyote ground leaf dung
rhinoceros long-horned walking cabbage Angora fox guinea water bighorn Arabian three-toed proboscis spider
squirrel howler lesser Indian anemone academic acoustic analog assault beer bell bolo bow brass
bullet carpenter cassette cellular chain cliff cocktail coffee combination container convertible crock cuirass
desktop dial digital dining dish drilling dutch espresso face feather file fire folding football forklift
four-poster freight frying fur gas golf grand grocery hand hard harp honeycomb hoop horse
"""
_NOUNS = """
shark ray owl snake lizard turtle frog grouse crab lobster stork heron egret whale lion terrier hound spaniel
setter retriever poodle sheepdog cat bear beetle fly butterfly rabbit squirrel pig sheep monkey panda fish
bottle ball bag box cup boat car truck train clock chair table lamp cabinet hat shirt shoe coat mask piano
guitar drum telephone screen rifle knife saw hammer plane wheel bridge fence wall house tower dome church shop
pot pan oven toaster crossword altar hair spray dryer
"""


def class_names(number: int) -> list[str]:
    """Returns different names in a random order, the same ones in each call.

    Args:
        number: The number of names, 1,000 at most.
    """
    rng = random.Random(0)
    modifiers, nouns = _MODIFIERS.split(), _NOUNS.split()
    names = dict.fromkeys(_SINGLE.split())
    while len(names) < 1000:
        num_modifiers = rng.choice((1, 2))
        names[" ".join([*rng.sample(modifiers, num_modifiers), rng.choice(nouns)])] = None
    shuffled = list(names)
    rng.shuffle(shuffled)
    return shuffled[:number]
