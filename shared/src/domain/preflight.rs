//! What would stop or spoil a campaign, told before it starts.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Channel,
    campaign::{Approval, Campaign},
    channel::{ChannelAccount, ChannelAccountStatus},
    text_enum,
};

text_enum! {
    /// What was found.
    FindingCode {
        /// There is nobody to write to, and nothing says whom to look for.
        NoContacts = "no_contacts",
        /// None of its contacts can be written to, and nothing says whom else to look for.
        NobodyReachable = "nobody_reachable",
        /// None of the campaign's channels has a connected account.
        NoAccount = "no_account",
        /// The accounts of the campaign's channels are paused.
        AccountPaused = "account_paused",
        /// Contacts without an address on a channel of the campaign that has an account.
        Unreachable = "unreachable",
        /// Contacts that are never to be written to.
        Suppressed = "suppressed",
        /// Mail without a postal address, which some countries require in commercial mail.
        NoPostalAddress = "no_postal_address",
        /// Drafts that go out without a person's approval.
        ApprovalAuto = "approval_auto",
    }
}

text_enum! {
    /// How bad it is.
    Severity {
        /// Nothing is sent until it is mended.
        Stops = "stops",
        /// It is sent, but not to all, or not as well as it could be.
        Spoils = "spoils",
        /// It should be meant.
        Notice = "notice",
    }
}

/// Something that would stop or spoil a campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// What was found.
    pub code: FindingCode,
    /// How bad it is.
    pub severity: Severity,
    /// In a sentence.
    pub message: &'static str,
    /// How many contacts it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contacts: Option<i64>,
}

/// How many contacts of a campaign can be written to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Reach {
    /// Those in the campaign.
    pub contacts: i64,
    /// Those without an address on any of its channels.
    pub unreachable: i64,
    /// Those that are never to be written to.
    pub suppressed: i64,
    /// Those that are neither.
    pub writable: i64,
}

/// What a look at a campaign found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Preflight {
    /// Whether nothing would stop it.
    pub ready: bool,
    /// How many contacts are in it.
    pub contacts: i64,
    /// Whether it looks for more when it starts.
    pub discovers: bool,
    /// What would stop or spoil it, the worst first.
    pub findings: Vec<Finding>,
}

impl Preflight {
    /// The channels of a campaign that can be used: those with an account, be it paused.
    pub fn channels(campaign: &Campaign, accounts: &[ChannelAccount]) -> Vec<Channel> {
        let usable = |channel: &Channel| {
            accounts.iter().any(|account| {
                account.channel == *channel && account.status != ChannelAccountStatus::Disconnected
            })
        };
        campaign.outreach_channels.iter().copied().filter(usable).collect()
    }

    /// Judges a campaign by its contacts and the account's mailboxes and profiles.
    pub fn of(campaign: &Campaign, reach: Reach, accounts: &[ChannelAccount]) -> Self {
        let mut findings = Vec::new();
        let mut found = |holds: bool, code, severity, message, contacts| {
            if holds {
                findings.push(Finding { code, severity, message, contacts });
            }
        };
        let status_of = |status| {
            accounts.iter().any(|account| {
                account.status == status && campaign.outreach_channels.contains(&account.channel)
            })
        };
        let (connected, paused) =
            (status_of(ChannelAccountStatus::Connected), status_of(ChannelAccountStatus::Paused));
        let discovers = campaign.has_criteria() && reach.contacts < i64::from(campaign.max_results);
        found(
            reach.contacts == 0 && !discovers,
            FindingCode::NoContacts,
            Severity::Stops,
            "The campaign has no contacts, and no criteria to find some.",
            None,
        );
        found(
            !connected && !paused,
            FindingCode::NoAccount,
            Severity::Stops,
            "No mailbox or profile is connected on the campaign's channels.",
            None,
        );
        found(
            !connected && paused,
            FindingCode::AccountPaused,
            Severity::Stops,
            "The mailboxes and profiles of the campaign's channels are paused: messages wait.",
            None,
        );
        found(
            (connected || paused) && reach.contacts > 0 && reach.writable == 0 && !discovers,
            FindingCode::NobodyReachable,
            Severity::Stops,
            "None of the campaign's contacts can be written to.",
            None,
        );
        found(
            reach.unreachable > 0,
            FindingCode::Unreachable,
            Severity::Spoils,
            "Some contacts have no address on a channel that the campaign can use.",
            Some(reach.unreachable),
        );
        found(
            reach.suppressed > 0,
            FindingCode::Suppressed,
            Severity::Spoils,
            "Some contacts asked to stop, or are suppressed: nothing is sent to them.",
            Some(reach.suppressed),
        );
        let postal =
            campaign.sender.postal_address.as_deref().is_some_and(|address| !address.trim().is_empty());
        found(
            !postal && campaign.outreach_channels.contains(&Channel::Email),
            FindingCode::NoPostalAddress,
            Severity::Spoils,
            "The sender has no postal address, which some countries require in commercial mail.",
            None,
        );
        found(
            campaign.approval == Approval::Auto,
            FindingCode::ApprovalAuto,
            Severity::Notice,
            "Drafts go out without anybody's approval.",
            None,
        );
        let ready = findings.iter().all(|finding| finding.severity != Severity::Stops);
        Self { ready, contacts: reach.contacts, discovers, findings }
    }
}
