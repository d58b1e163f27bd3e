//! What the built-in templates say: for each objective what it is about, and for each step how it is said. The words in
//! braces are `{{name|fallback}}` placeholders, resolved by the domain's template.

/// The words of one objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phrases {
    /// The objective type of the campaign; empty for all that are not known.
    pub objective: &'static str,
    /// The subject of the first message.
    pub subject: &'static str,
    /// Why we write, as the first message's first paragraph.
    pub opening: &'static str,
    /// What it is about, to follow "about".
    pub topic: &'static str,
    /// What speaks for it, a sentence.
    pub reason: &'static str,
    /// What we ask for, a question.
    pub ask: &'static str,
    /// What `{{interest}}` is when the campaign names no keywords.
    pub interest: &'static str,
}

/// The objectives that have words of their own; the last one serves all others.
pub const PHRASES: [Phrases; 8] = [
    Phrases {
        objective: "venue_dj",
        subject: "A DJ night at {{company|your venue}}?",
        opening: "I'm lining up DJ dates around {{location|town}}, and {{company|your venue}} is one of the places \
                  I'd most like to play. Your room looks like a great fit for {{interest}}.",
        topic: "a DJ night at {{company|your venue}}",
        reason: "I'm flexible on dates and glad to start with a quieter weeknight, so that you can see how your crowd \
                 takes to it.",
        ask: "Would you be open to a short chat about a date, or could you point me to whoever books your music?",
        interest: "a night of good music",
    },
    Phrases {
        objective: "product_promotion",
        subject: "Something that may suit {{company|you}}",
        opening: "I'm writing because I think what we're introducing with {{campaign_name}} could be useful to \
                  {{company|you}}, given your interest in {{interest}}.",
        topic: "{{campaign_name}}",
        reason: "I'm happy to show you the short version first, so that you can judge quickly whether it's worth more \
                 of your time.",
        ask: "Would it be all right if I sent you a few details?",
        interest: "trying what is new",
    },
    Phrases {
        objective: "sales",
        subject: "A quick question for {{company|you}}",
        opening: "I've been looking at how teams like {{company|yours}} handle {{interest}}, and I believe we could \
                  take some of that work off your hands.",
        topic: "how we could help {{company|you}} with {{interest}}",
        reason: "A fifteen-minute call is enough to find out whether there's a fit, and if there isn't I'll say so.",
        ask: "Do you have fifteen minutes this week or next?",
        interest: "day-to-day work",
    },
    Phrases {
        objective: "partnership",
        subject: "{{company|You}} and us: an idea",
        opening: "I've been following the work of {{company|your team}} around {{interest}}, and I think it and ours \
                  complement each other well.",
        topic: "a partnership with {{company|you}}",
        reason: "It could start small, with one thing we try together, and grow only if it works for both sides.",
        ask: "Would you be up for a short call to compare notes?",
        interest: "your field",
    },
    Phrases {
        objective: "recruiting",
        subject: "A role you might like, {{first_name|if you are curious}}",
        opening: "Your background caught my eye while I was looking for people for a role around {{interest}}, and I \
                  think it could be a good match.",
        topic: "the role I wrote to you about",
        reason: "There's no pressure at all: a first conversation is only to see whether it's interesting to you.",
        ask: "Would you be open to a short, informal chat?",
        interest: "work like yours",
    },
    Phrases {
        objective: "press",
        subject: "A story idea on {{interest}}",
        opening: "I read {{company|your coverage}} with interest, and I have a story on {{interest}} that I think your \
                  readers would care about.",
        topic: "the story idea on {{interest}}",
        reason: "I can share background, numbers and people to talk to, and I'm glad to work to your deadline.",
        ask: "Shall I send you the details?",
        interest: "{{campaign_name}}",
    },
    Phrases {
        objective: "event",
        subject: "You're invited: {{campaign_name}}",
        opening: "We're putting together {{campaign_name}} around {{location|town}}, for people who care about \
                  {{interest}}, and I'd love to have {{company|you}} there.",
        topic: "{{campaign_name}}",
        reason: "I think you'd enjoy it, and meet people worth meeting.",
        ask: "Can I put you on the list?",
        interest: "good company",
    },
    Phrases {
        objective: "",
        subject: "A quick note for {{company|you}}",
        opening: "I'm getting in touch about {{campaign_name}}. I thought of {{company|you}} because of {{interest}}.",
        topic: "{{campaign_name}}",
        reason: "I'm glad to keep it short and to send only what is useful to you.",
        ask: "Would you be open to hearing a little more?",
        interest: "what you do",
    },
];

/// How each step says it; step 0 is the first message, 1 to 6 the follow-ups. `[opening]`, `[topic]`, `[reason]`,
/// `[ask]` and `[about]` (the campaign's own words, a paragraph or nothing) are filled from the objective.
pub const STEPS: [&str; 7] = [
    "Hi {{first_name|there}},\n\n[opening]\n\n[about][reason] [ask]",
    "Hi {{first_name|there}},\n\nI wanted to follow up on my note about [topic], in case it got buried. [reason]\n\n[ask]",
    "Hi {{first_name|there}},\n\nI know how full an inbox can get, so just a short nudge about [topic].\n\n[about][ask] \
     A one-line answer is plenty.",
    "Hi {{first_name|there}},\n\nI'm still thinking about [topic], and I'd rather ask once more than guess. If now isn't \
     a good time, tell me when would be better and I'll come back then.\n\n[ask]",
    "Hi {{first_name|there}},\n\nOne more thought about [topic]: [reason]\n\nIf somebody else is the right person to \
     talk to, I'd be grateful for a name.",
    "Hi {{first_name|there}},\n\nI don't want to crowd your inbox, so I'll be brief. Is [topic] something you'd like to \
     talk about, or should I leave it? Either answer helps me.",
    "Hi {{first_name|there}},\n\nThis is my last note about [topic]. If it becomes interesting later, just answer this \
     mail and we'll pick it up from here.\n\nThank you for your time.",
];
