# ruff: noqa: E501, a story stays on one line
"""The stories of the pocket task, as data: written for this project, in the manner of two-step school word problems.

They were modelled on MultiArith's kinds of equation, a ± b ∓ c, (a ± b) × c and (a ± b) ÷ c, after looking at some rows
of its *training* split; no text of it is used. A third of them go further (three steps, two products).

A template is (steps, text). In the text `[x|y]` is a free choice of wording, `{a}` .. `{d}` are numbers,
`{name}` (`{Name}` at a sentence's start) is the protagonist, `{he}`, `{his}`, `{He}` the pronouns,
`{other}` somebody else, `{things}`/`{thing}` a kind of object, `{boxes}`/`{box}` a kind of container. In
the steps `p`, `q` are the results of the first and second step; the last step's result is the answer.
"""

_HE = "Adam Ben Carl Dan Eric Frank Henry Ivan Jack Kevin Luke Mike Nick Oscar Paul Robin Sam Tom Will Victor"
_SHE = "Amy Bella Cara Diana Emma Faye Gina Haley Isabel Jenny Kate Lisa Maria Nancy Olivia Paige Rachel Sarah"
_PRONOUNS = dict.fromkeys(_HE.split(), "he") | dict.fromkeys(_SHE.split(), "she")
_PRONOUNS |= {"the teacher": "she", "the baker": "he", "the farmer": "he"}
_PRONOUNS |= {"the artist": "she", "the coach": "he", "the gardener": "she"}
# (name as inside a sentence, pronoun, possessive)
PROTAGONISTS = tuple((name, he, {"he": "his", "she": "her"}[he]) for name, he in _PRONOUNS.items())
_OTHERS = "Anna Bob Clara David Ella George Helen Jacob Lucy Mark Nora Peter Rosa Simon Tina Zoe"
OTHERS = tuple(_OTHERS.split())

_THINGS = """
stickers marbles pencils apples cookies shells stamps books cards balloons beads coins photos eggs flowers oranges
buttons crayons pictures cupcakes toys pens peaches candies muffins ribbons bracelets markers rocks lemons carrots
pears tickets games magazines shirts bottles pizzas songs puzzles
"""
THINGS = tuple(_THINGS.split())
_BOXES = "boxes bags baskets jars crates trays packs shelves rows piles drawers buckets albums folders cases"
BOXES = tuple(_BOXES.split())
_IRREGULAR = {"peaches": "peach", "candies": "candy", "boxes": "box", "shelves": "shelf"}


def singular(things: str) -> str:
    """One of the things or boxes: "marbles" -> "marble"."""
    return _IRREGULAR.get(things, things[:-1])


# Stories that pre-training, the train split and the test split share (with other numbers in each).
SEEN = (
    # a ± b ∓ c
    ("a + b; p - c", "{Name} [had|owned|started with] {a} {things}. {He} [bought|got|was given] {b} more and then [gave {c} to {other}|lost {c} of them|sold {c}]. How many {things} does {name} have [now|left]?"),
    ("a - b; p + c", "{Name} had {a} {things}. {He} [gave {b} of them to {other}|gave away {b}|lost {b}] and later [found|bought|received] {c} more. How many {things} [does {he} have now|does {name} have in the end]?"),
    ("a + b; p - c", "{Name} [picked|collected|found] {a} {things} in the morning and {b} {things} in the afternoon. If {he} [gave {c} of them away|ate {c} of them|dropped {c} of them], how many {things} [would be left|are left]?"),
    ("a - b; p - c", "There were {a} {things} [on the table|in the room|at the shop]. {Name} took {b} of them and {other} took {c}. How many {things} [are still there|are left]?"),
    ("a - b; p - c", "{Name} had {a} {things}. On Monday {he} [used|sold] {b} and on Tuesday {he} [used|sold] {c} more. How many {things} [were left|did {he} have left]?"),
    ("a - b; p + c", "For the [school|church|club] bake sale {name} made {a} {things}. If {he} sold {b} of them and then made {c} more, how many {things} would {he} have?"),
    ("a + b; p - c", "{Name} earned {a} dollars [washing cars|walking dogs|mowing lawns] and {b} dollars [selling lemonade|cleaning windows]. If {he} spent {c} dollars on [food|a game|a new book], how much money does {he} have left?"),
    ("a - b; p + c", "{Name} had {a} dollars. {He} spent {b} dollars [on a toy|at the shop|on lunch], then [{his} uncle gave {him} {c} dollars|got {c} dollars from {his} aunt]. How much money does {he} have now?"),
    ("a + b; p + c", "{Name} read {a} pages on Friday, {b} pages on Saturday and {c} pages on Sunday. How many pages did {he} read [in all|altogether|in total]?"),
    ("a + b; p + c", "In the garden {name} planted {a} red flowers, {b} yellow flowers and {c} white flowers. How many flowers did {he} plant [in total|altogether]?"),
    ("a + b; p - c", "There were {a} boys and {b} girls at the party of {name}. If {c} of the children went home early, how many children stayed?"),
    ("a - b; p + c", "A bus with {a} people stopped near the house of {name}. If {b} people got off and {c} people got on, how many people are on the bus now?"),
    ("b + c; a - p", "{Name} had {a} {things}. {He} gave {b} to {other} and {c} to {his} [brother|sister|friend]. How many {things} did {name} keep?"),
    ("b + c; a - p", "{Name} wants to buy a bike for {a} dollars. {He} has saved {b} dollars and {other} gave {him} {c} dollars. How many more dollars does {he} need?"),
    ("a - b; a + p", "{Name} has {a} {things}. {Other} has {b} fewer {things} than {name}. How many {things} do they have together?"),
    ("a + b; a + p", "{Name} [found|has] {a} {things}. {Other} [found|has] {b} more than {name}. How many {things} do they have [together|altogether]?"),
    # (a ± b) ÷ c
    ("a + b; p / c", "{Name} had {a} red {things} and {b} blue {things}. If {he} put them into {boxes} with {c} {things} in each {box}, how many {boxes} [did|would] {he} use?"),
    ("a + b; p / c", "{Name} [uploaded|took] {a} pictures with {his} phone and {b} pictures with {his} camera. If {he} sorted them into {c} albums with the same number of pictures in each album, how many pictures were in each album?"),
    ("a - b; p / c", "{Name} had {a} {things} but {b} of them were [broken|lost|old]. If {he} put the rest into {c} {boxes}, with the same number in each, how many {things} were in each {box}?"),
    ("a - b; p / c", "{Name} had {a} {things}. {He} gave {b} to {other} and shared the rest equally among {c} friends. How many {things} did each friend get?"),
    ("a - b; p / c", "There were {a} students trying out for the team of {name}. If {b} of them were not chosen and the rest were put into {c} groups, how many students were in each group?"),
    ("a + b; p / c", "{Name} had {a} dollars and {other} gave {him} {b} dollars. If each {thing} costs {c} dollars, how many {things} can {he} buy?"),
    ("a - b; p / c", "{Name} had {a} dollars and spent {b} dollars on a [game|book|ticket]. How many {c} dollar {things} could {he} buy with the money {he} had left?"),
    ("a + b; p / c", "A shop had {a} {things} when {name} brought {b} more. If {c} of them are sold each day, how many days would they last?"),
    ("a - b; p / c", "{Name} had {a} pages of homework. {He} finished {b} of them. If {he} can do {c} pages [an hour|each hour|per hour], how many hours does {he} need for the rest?"),
    ("a + b; p / c", "{Name} invited {a} friends and {other} invited {b} friends. If {c} people sit at each table, how many tables do they need?"),
    ("a - b; p / c", "{Name} invited {a} people to lunch, but {b} of them did not come. If each table held {c} people, how many tables were needed?"),
    ("a + b; p / c", "{Name} washed {a} shirts and {b} sweaters. If the washing machine holds {c} pieces of clothing, how many loads did {he} do?"),
    ("a - b; p / c", "{Name} picked {a} {things} and [ate|sold|gave away] {b} of them. The rest went into {boxes} that hold {c} {things} each. How many {boxes} were filled?"),
    ("a - b; p / c", "{Name} downloaded {a} files and deleted {b} of them. If {he} put {c} files into each folder, how many folders did {he} get?"),
    ("a * b; p / c", "{Name} has {a} {boxes} with {b} {things} in each. If {he} shares all the {things} equally among {c} children, how many {things} does each child get?"),
    # (a ± b) × c
    ("a - b; p * c", "{Name} bought {a} {boxes} of {things} and gave {b} [of them|{boxes}] to {other}. If each {box} has {c} {things} inside it, how many {things} does {he} still have?"),
    ("a + b; p * c", "{Name} bought {a} {boxes} of red {things} and {b} {boxes} of green {things}. If each {box} holds {c} {things}, how many {things} did {he} buy [in all|altogether]?"),
    ("a - b; p * c", "{Name} had {a} {things} but {b} of them did not work. If {he} sold the others for {c} dollars each, how much money did {he} earn?"),
    ("a - b; p * c", "{Name} was selling {things} for {c} dollars each. If {he} started with {a} {things} and had {b} left at the end of the day, how much money did {he} make?"),
    ("a + b; p * c", "At the [fair|carnival] {name} rode the big wheel {a} times and the bumper cars {b} times. If each ride costs {c} tickets, how many tickets did {he} use?"),
    ("a - b; p * c", "{Name} bought {a} tickets at the fair and had {b} tickets left after the rides. If each ticket cost {c} dollars, how much money did {he} spend on the rides?"),
    ("a - b; p * c", "In a game {name} gets {c} points for each [enemy|monster] {he} defeats. If a level has {a} of them and {he} misses {b}, how many points does {he} get?"),
    ("a + b; p * c", "In a game {name} scores {c} points for each [treasure|coin|star]. If {he} finds {a} of them on the first level and {b} on the second, what is {his} score?"),
    ("a - b; p * c", "{Name} has {a} worksheets to grade, each with {c} problems on it. If {he} has already graded {b} of the worksheets, how many problems are left to grade?"),
    ("a + b; p * c", "{Name} packed {a} {boxes} on Monday and {b} {boxes} on Tuesday. Each {box} holds {c} {things}. How many {things} were packed?"),
    ("a + b; p * c", "{Name} bought {a} {things} for {himself} and {b} for {other}. If each {thing} costs {c} dollars, how much did {he} pay?"),
    ("a + b; p * c", "The library of {name} has {a} shelves of old books and {b} shelves of new books. With {c} books on each shelf, how many books are there?"),
    # products with a sum or a difference
    ("a * b; p + c", "{Name} has {a} {boxes} with {b} {things} in each {box} and {c} loose {things}. How many {things} does {he} have [in all|altogether]?"),
    ("a * b; p - c", "{Name} filled {a} {boxes} with {b} {things} each. Then {he} [gave {c} {things} to {other}|took {c} {things} out]. How many {things} are left?"),
    ("a * b; p + c", "{Name} bought {a} {things} for {b} dollars each and a bag for {c} dollars. How much money did {he} spend?"),
    ("a * b; p - c", "{Name} worked {a} hours for {b} dollars an hour. Then {he} spent {c} dollars. How much money was left?"),
    ("b * c; a - p", "{Name} had {a} dollars. {He} bought {b} {things} for {c} dollars each. How much money does {he} have left?"),
    ("b * c; a + p", "{Name} had {a} dollars in the bank. Each week {he} saves {b} more dollars. How much will {he} have after {c} weeks?"),
    ("a / b; p + c", "{Name} shared {a} {things} equally among {b} friends. {Other}, who is one of them, already had {c} {things}. How many {things} does {other} have now?"),
    ("a / b; p - c", "{Name} put {a} {things} equally into {b} {boxes}. Then {he} took {c} {things} out of one {box}. How many {things} are left in that {box}?"),
    ("a / b; p * c", "{Name} paid {a} dollars for {b} {things}. How much would {c} of the {things} cost?"),
    # three steps
    ("a * b; c * d; p + q", "{Name} has {a} {boxes} with {b} {things} each and {c} bigger {boxes} with {d} {things} each. How many {things} does {he} have altogether?"),
    ("a * b; c * d; p + q", "{Name} sold {a} small cakes for {b} dollars each and {c} large cakes for {d} dollars each. How much money did {he} get?"),
    ("a + b; p - c; q + d", "{Name} had {a} {things}. {He} found {b}, lost {c} and then bought {d}. How many {things} does {he} have [now|in the end]?"),
    ("a + b; p - c; q / d", "{Name} [baked|bought] {a} {things} and {other} [baked|bought] {b}. They ate {c} of them and put the rest into {boxes} of {d}. How many {boxes} did they need?"),
    ("a * b; p - c; q + d", "{Name} had {a} {boxes} of {b} {things}. {He} sold {c} {things} and then got {d} more. How many {things} does {he} have?"),
    # the same shapes, told in other orders
    ("a + b; p / c", "After {name} found {a} {things} and {other} found {b}, they divided all of them into {c} equal {boxes}. How many {things} are in one {box}?"),
    ("a * b; p + c", "Each of the {a} {boxes} of {name} holds {b} {things}. There are also {c} {things} on the floor. What is the total number of {things}?"),
    ("a - b; p / c", "Out of {a} {things}, {name} threw {b} away. Then {he} packed the others in {boxes}, {c} to a {box}. How many {boxes} was that?"),
    ("a + b; p * c", "Every {thing} costs {c} dollars. {Name} takes {a} and {other} takes {b}. How many dollars do they pay together?"),
    ("b * c; a - p", "There are {a} {things}. {Name} gives {c} of them to each of {b} children. How many {things} stay with {him}?"),
    ("a - b; p * c", "Of {a} lamps in the house of {name}, {b} are off. Each lamp that is on uses {c} units of power. How many units are used?"),
    ("a + b; p - c", "A tank at the home of {name} had {a} gallons of water. Rain added {b} gallons and {c} gallons were used. How much water is in the tank?"),
    ("a * b; p / c", "{Name} needs {a} wheels for each of {b} carts. Wheels come in {boxes} of {c}. How many {boxes} must {he} buy?"),
    ("a - b; p - c", "The book of {name} has {a} pages. {He} read {b} pages yesterday and {c} today. How many pages are left to read?"),
    ("a + b; p + c", "How many {things} are there in all, if {name} has {a}, {other} has {b} and the shop has {c}?"),
    ("a - b; p / c", "How many days will it take {name} to paint {a} doors, if {b} are painted already and {he} paints {c} a day?"),
    ("a * b; p - c", "{a} {boxes} of {b} {things} came to the shop, and {name} bought {c} {things}. How many {things} does the shop still have?"),
    ("b + c; a - p", "{Name} must pack {a} {things}. So far {he} packed {b}, and {other} packed {c}. How many are not packed yet?"),
    ("a * b; c * d; p + q", "{Name} pays for {a} tickets at {b} dollars and {c} drinks at {d} dollars. What does {he} pay in total?"),
    ("a + b; p / c", "{Name} and {other} work together. {Name} made {a} {things} and {other} {b}. Each customer wants {c} {things}. How many customers can they serve?"),
    ("a - b; p * c", "A class of {a} pupils went to the zoo with {name}, but {b} were ill. Each pupil who went paid {c} dollars. How much was paid?"),
    ("a / b; p * c", "{b} {things} weigh {a} grams, finds {name}. How many grams do {c} of them weigh?"),
    ("a / b; p - c", "The {a} {things} fill {b} {boxes} equally. {Name} loses {c} from the last {box}. How many are still in it?"),
    ("a * b; c * d; p - q", "{Name} earned {a} dollars an hour for {b} hours and spent {c} dollars a day for {d} days. How much does {he} have left?"),
)  # fmt: skip

# Two people to compare: the first step is the protagonist's number, the second the other's. Of `pocket-choice`.
COMPARED = (
    ("a + b; c - d", "{Name} had {a} {things} and [found|bought] {b} more. {Other} had {c} {things} and [lost|sold] {d}. Who has more {things} now?"),
    ("a - b; c + d", "{Name} had {a} {things} and gave {b} away. {Other} had {c} {things} and got {d} more. Who has more {things} now?"),
    ("a + b; c + d", "{Name} picked {a} {things} in the morning and {b} in the afternoon. {Other} picked {c} in the morning and {d} in the afternoon. Who picked more {things}?"),
    ("a - b; c - d", "{Name} made {a} {things} and sold {b}. {Other} made {c} {things} and sold {d}. Who has more {things} left?"),
    ("a * b; c * d", "{Name} has {a} {boxes} with {b} {things} in each. {Other} has {c} {boxes} with {d} {things} in each. Who has more {things}?"),
    ("a * b; c + d", "{Name} bought {a} {boxes} of {b} {things}. {Other} had {c} {things} and bought {d} more. Who has more {things}?"),
    ("a + b; c * d", "{Name} read {a} pages on Friday and {b} pages on Saturday. {Other} read {c} pages a day for {d} days. Who read more pages?"),
    ("a * b; c - d", "{Name} worked {a} hours for {b} dollars an hour. {Other} had {c} dollars and spent {d} dollars. Who has more money?"),
    ("a - b; c * d", "{Name} had {a} dollars and spent {b} dollars [on lunch|at the shop]. {Other} saved {c} dollars a week for {d} weeks. Who has more money?"),
    ("a / b; c - d", "{Name} shares {a} {things} equally among {b} friends and keeps one share. {Other} had {c} {things} and gave {d} away. Who has more {things} at the end?"),
    ("a / b; c + d", "{Name} put {a} {things} into {b} equal {boxes} and took one {box} home. {Other} took {c} and then {d} {things} home. Who took more {things} home?"),
    ("a + b; c + d", "In a game {name} got {a} points on the first level and {b} on the second. {Other} got {c} and {d} points. Who got more points?"),
)  # fmt: skip

# Stories that only the unseen test has.
UNSEEN = (
    ("a + b; p - c", "At breakfast the cook of {name} boiled {a} eggs, and at noon {b} more. The guests ate {c} eggs. How many eggs remain?"),
    ("a - b; p + c", "The parking lot next to the office of {name} held {a} cars. During the day {b} cars drove away and {c} cars arrived. How many cars are parked there now?"),
    ("b + c; a - p", "{Name} has to walk {a} miles. {He} walked {b} miles before lunch and {c} miles after it. How many miles does {he} still have to walk?"),
    ("a - b; p - c", "A rope was {a} feet long. {Name} cut off {b} feet for a swing and {c} feet for a ladder. How long is the rope now?"),
    ("a + b; p + c", "{Name} counted {a} ducks, {b} geese and {c} swans on the lake. How many birds did {he} count?"),
    ("a + b; p / c", "{Name} owns {a} brown hens and {b} white hens. They live in coops of {c} hens. How many coops are there?"),
    ("a - b; p / c", "Of the {a} chairs in the hall {name} removed {b}. The remaining chairs stand in {c} equal lines. How many chairs stand in each line?"),
    ("a - b; p / c", "{Name} collected {a} liters of milk and drank {b} liters. The rest fills cans of {c} liters. How many cans does {he} fill?"),
    ("a + b; p * c", "{Name} trains {a} mornings and {b} evenings every month. Each time {he} swims {c} laps. How many laps is that?"),
    ("a - b; p * c", "{Name} rented {a} boats, but {b} of them leaked and stayed on land. Every other boat carried {c} people. How many people went out on the water?"),
    ("a * b; p + c", "{Name} set {a} tables with {b} plates each, and there were {c} plates in the kitchen. How many plates were there in total?"),
    ("a * b; p - c", "A theater has {a} rows of {b} seats. {Name} sees that {c} seats are empty. How many seats are taken?"),
    ("b * c; a - p", "{Name} has a ribbon of {a} inches. {He} makes {b} bows and every bow takes {c} inches. How many inches remain?"),
    ("a * b; c * d; p + q", "On the farm of {name} there are {a} barns with {b} cows and {c} barns with {d} horses. How many animals live there?"),
)  # fmt: skip
