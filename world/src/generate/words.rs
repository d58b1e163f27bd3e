//! The words that names, streets and descriptions are made of.

pub(super) const ADJECTIVES: [&str; 48] = [
    "Amber", "Basement", "Black", "Blue", "Brass", "Broken", "Cobalt", "Copper", "Corner", "Crooked",
    "Dusty", "Electric", "Emerald", "Faded", "First", "Floating", "Gilded", "Golden", "Green", "Hidden",
    "Hollow", "Iron", "Ivory", "Jade", "Last", "Little", "Long", "Lucky", "Marble", "Midnight", "Neon",
    "Northern", "Old", "Painted", "Paper", "Quiet", "Red", "Rolling", "Rusty", "Salty", "Second", "Silver",
    "Sunday", "Velvet", "Violet", "White", "Wild", "Wooden",
];

pub(super) const NOUNS: [&str; 48] = [
    "Anchor",
    "Arcade",
    "Barrel",
    "Bell",
    "Bridge",
    "Cactus",
    "Candle",
    "Clover",
    "Comet",
    "Compass",
    "Crane",
    "Crown",
    "Drum",
    "Ember",
    "Engine",
    "Falcon",
    "Fern",
    "Fiddle",
    "Fox",
    "Garden",
    "Harbor",
    "Heron",
    "Horse",
    "Key",
    "Lantern",
    "Lark",
    "Lemon",
    "Lighthouse",
    "Lion",
    "Magnolia",
    "Mirror",
    "Moon",
    "Needle",
    "Oak",
    "Orchid",
    "Owl",
    "Parlor",
    "Piano",
    "Pigeon",
    "Pony",
    "Raven",
    "River",
    "Sparrow",
    "Swan",
    "Tiger",
    "Trolley",
    "Wagon",
    "Willow",
];

pub(super) const STREETS: [&str; 24] = [
    "Albemarle Rd",
    "Atlantic Ave",
    "Bedford Ave",
    "Bushwick Ave",
    "Church Ave",
    "Clinton St",
    "Court St",
    "DeKalb Ave",
    "Driggs Ave",
    "Flatbush Ave",
    "Franklin St",
    "Fulton St",
    "Grand St",
    "Kent Ave",
    "Knickerbocker Ave",
    "Lafayette Ave",
    "Manhattan Ave",
    "Myrtle Ave",
    "Nostrand Ave",
    "Smith St",
    "Union St",
    "Vanderbilt Ave",
    "Wyckoff Ave",
    "5th Ave",
];

/// Name, latitude and longitude in millionths of a degree.
pub(super) const NEIGHBOURHOODS: [(&str, i64, i64); 20] = [
    ("Williamsburg", 40_708_100, -73_957_100),
    ("Greenpoint", 40_730_400, -73_951_500),
    ("Bushwick", 40_694_400, -73_921_300),
    ("Bedford-Stuyvesant", 40_687_200, -73_941_800),
    ("Crown Heights", 40_669_400, -73_942_200),
    ("Prospect Heights", 40_677_400, -73_969_000),
    ("Park Slope", 40_671_000, -73_981_400),
    ("Gowanus", 40_673_300, -73_990_400),
    ("Carroll Gardens", 40_679_500, -73_999_200),
    ("Red Hook", 40_675_500, -74_009_000),
    ("Cobble Hill", 40_686_500, -73_996_200),
    ("DUMBO", 40_703_300, -73_988_100),
    ("Fort Greene", 40_692_100, -73_974_200),
    ("Clinton Hill", 40_689_600, -73_966_100),
    ("Flatbush", 40_641_400, -73_959_400),
    ("Ditmas Park", 40_636_100, -73_962_300),
    ("Sunset Park", 40_645_500, -74_012_400),
    ("Bay Ridge", 40_626_400, -74_029_900),
    ("East Williamsburg", 40_714_200, -73_936_900),
    ("Sheepshead Bay", 40_591_700, -73_944_800),
];

pub(super) const FIRST_NAMES: [&str; 40] = [
    "Ada", "Amir", "Bea", "Carlos", "Chloe", "Dario", "Elena", "Emeka", "Farah", "Finn", "Grace", "Hana",
    "Hugo", "Imani", "Ines", "Jonah", "Julia", "Kai", "Kofi", "Lena", "Leo", "Lucia", "Malik", "Mara", "Mei",
    "Milo", "Nadia", "Nils", "Omar", "Paula", "Priya", "Quinn", "Rosa", "Sami", "Tara", "Theo", "Uma",
    "Vera", "Yusuf", "Zoe",
];

pub(super) const LAST_NAMES: [&str; 40] = [
    "Abbott", "Alvarez", "Bauer", "Bennett", "Castro", "Chen", "Costa", "Diaz", "Dubois", "Eriksen",
    "Fischer", "Garcia", "Greene", "Haddad", "Hayes", "Ito", "Jensen", "Kaplan", "Khan", "Kim", "Larsen",
    "Lopez", "Marino", "Mensah", "Moreau", "Nguyen", "Novak", "Okafor", "Park", "Patel", "Quist", "Rossi",
    "Santos", "Schmidt", "Silva", "Tanaka", "Ueda", "Vargas", "Weber", "Young",
];

pub(super) const TITLES: [&str; 10] = [
    "Owner",
    "General Manager",
    "Booking Manager",
    "Events Director",
    "Music Director",
    "Programming Lead",
    "Marketing Manager",
    "Bar Manager",
    "Curator",
    "Talent Buyer",
];

pub(super) const CONTACT_TYPES: [&str; 6] = ["venue", "promoter", "press", "label", "agency", "brand"];

pub(super) const COMPANY_KINDS: [&str; 8] =
    ["Presents", "Records", "Media", "Agency", "Studios", "Collective", "Group", "House"];
