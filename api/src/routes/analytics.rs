//! Numbers on what was sent and what came of it.

use std::ops::RangeInclusive;

use axum::extract::State;
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::Deserialize;
use shared::{
    db::{analytics as db, campaigns},
    domain::{
        FieldError,
        analytics::{
            CampaignNumbers, ContactTypeCount, Interval, Overview, Performance, Period, ResponseTime,
            Summary, Totals,
        },
    },
};
use sqlx::PgConnection;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::{
    app::App,
    auth::Caller,
    envelope::Data,
    error::{ApiError, Code},
    extract::{CampaignId, Query},
};

/// The time that is looked at unless said otherwise, and the longest.
const PERIOD: TimeDelta = TimeDelta::days(30);
const PERIOD_MAX: TimeDelta = TimeDelta::days(366);
/// What the database is asked about: it knows times beyond, but not ids of them.
const YEARS: RangeInclusive<i32> = 2000..=2200;
/// How many kinds of contacts a list has, and a summary.
const TYPES_MAX: i64 = 100;
const SUMMARY_TYPES: i64 = 5;

/// Which time to look at.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PeriodParams {
    /// The beginning; 30 days before the end when absent.
    from: Option<DateTime<Utc>>,
    /// The end, not included; now when absent. At most 366 days after the beginning.
    to: Option<DateTime<Utc>>,
}

/// Which answers to look at.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AnswerParams {
    /// The beginning; 30 days before the end when absent.
    from: Option<DateTime<Utc>>,
    /// The end, not included; now when absent. At most 366 days after the beginning.
    to: Option<DateTime<Utc>>,
    /// Only this campaign.
    campaign_id: Option<Uuid>,
}

/// Which time series to look at.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SeriesParams {
    /// The beginning; 30 days before the end when absent.
    from: Option<DateTime<Utc>>,
    /// The end, not included; now when absent. At most 366 days after the beginning.
    to: Option<DateTime<Utc>>,
    /// Only this campaign.
    campaign_id: Option<Uuid>,
    /// How long a point is; a day when absent.
    interval: Option<Interval>,
}

/// Which contacts to look at.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CampaignParams {
    /// Only this campaign.
    campaign_id: Option<Uuid>,
}

fn period(app: &App, from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Result<Period, ApiError> {
    let to = to.unwrap_or_else(|| app.clock.now());
    let from = from.or_else(|| to.checked_sub_signed(PERIOD)).unwrap_or(to);
    let wrong = if from >= to {
        "must be before to"
    } else if to - from > PERIOD_MAX {
        "must be at most 366 days before to"
    } else if !YEARS.contains(&from.year()) || !YEARS.contains(&to.year()) {
        "and to must be between the years 2000 and 2200"
    } else {
        return Ok(Period { from, to });
    };
    Err(ApiError::request(vec![FieldError::new("from", wrong)]))
}

/// A campaign that a query names must be there.
async fn require(
    conn: &mut PgConnection,
    account_id: Uuid,
    campaign_id: Option<Uuid>,
) -> Result<(), ApiError> {
    let Some(id) = campaign_id else { return Ok(()) };
    let campaign = campaigns::find(conn, account_id, id).await?;
    campaign.map(drop).ok_or_else(|| ApiError::new(Code::CampaignNotFound))
}

async fn overview_of(
    conn: &mut PgConnection,
    account_id: Uuid,
    period: Period,
) -> Result<Overview, ApiError> {
    let Totals { campaigns, active_campaigns, new_contacts, contacts_reached } =
        db::totals(conn, account_id, period).await?;
    let messages = db::count_messages(conn, account_id, period, None).await?;
    let rates = messages.rates();
    Ok(Overview { period, campaigns, active_campaigns, new_contacts, contacts_reached, messages, rates })
}

/// Show totals
///
/// Over all campaigns: what was sent in the time, and what has become of it since.
#[utoipa::path(
    get, path = "/analytics/overview", params(PeriodParams), responses((status = 200, body = Data<Overview>))
)]
pub async fn overview(
    State(app): State<App>,
    caller: Caller,
    Query { filter, .. }: Query<PeriodParams>,
) -> Result<Data<Overview>, ApiError> {
    let period = period(&app, filter.from, filter.to)?;
    let mut conn = app.connection().await?;
    overview_of(&mut conn, caller.account_id, period).await.map(Data::ok)
}

/// Show the numbers of a campaign
///
/// What was sent in the time, and what has become of it since, in all and by step.
#[utoipa::path(
    get, path = "/analytics/campaigns/{id}",
    params(("id" = Uuid, Path, description = "The campaign"), PeriodParams),
    responses((status = 200, body = Data<CampaignNumbers>))
)]
pub async fn campaign(
    State(app): State<App>,
    caller: Caller,
    CampaignId(campaign_id): CampaignId,
    Query { filter, .. }: Query<PeriodParams>,
) -> Result<Data<CampaignNumbers>, ApiError> {
    let period = period(&app, filter.from, filter.to)?;
    let account_id = caller.account_id;
    let mut conn = app.connection().await?;
    require(&mut conn, account_id, Some(campaign_id)).await?;
    let messages = db::count_messages(&mut conn, account_id, period, Some(campaign_id)).await?;
    let steps = db::count_steps(&mut conn, account_id, period, campaign_id).await?;
    Ok(Data::ok(CampaignNumbers { campaign_id, period, messages, rates: messages.rates(), steps }))
}

/// Show a time series
///
/// What was sent on each day, in each week or month, and what has become of it since.
#[utoipa::path(
    get, path = "/analytics/performance", params(SeriesParams), responses((status = 200, body = Data<Performance>))
)]
pub async fn performance(
    State(app): State<App>,
    caller: Caller,
    Query { filter, .. }: Query<SeriesParams>,
) -> Result<Data<Performance>, ApiError> {
    let period = period(&app, filter.from, filter.to)?;
    let interval = filter.interval.unwrap_or(Interval::Day);
    let mut conn = app.connection().await?;
    require(&mut conn, caller.account_id, filter.campaign_id).await?;
    let points = db::series(&mut conn, caller.account_id, period, filter.campaign_id, interval).await?;
    Ok(Data::ok(Performance { period, interval, points }))
}

/// Show how long answers take
///
/// From the last message before it to the first answer of a person in each conversation.
#[utoipa::path(
    get, path = "/analytics/response-time", params(AnswerParams), responses((status = 200, body = Data<ResponseTime>))
)]
pub async fn response_time(
    State(app): State<App>,
    caller: Caller,
    Query { filter, .. }: Query<AnswerParams>,
) -> Result<Data<ResponseTime>, ApiError> {
    let period = period(&app, filter.from, filter.to)?;
    let mut conn = app.connection().await?;
    require(&mut conn, caller.account_id, filter.campaign_id).await?;
    let times = db::response_times(&mut conn, caller.account_id, period, filter.campaign_id).await?;
    Ok(Data::ok(ResponseTime { period, times }))
}

/// Show the kinds of contacts
///
/// How many there are of each, the most frequent first, and how many of them have answered.
#[utoipa::path(
    get, path = "/analytics/contact-types", params(CampaignParams),
    responses((status = 200, body = Data<Vec<ContactTypeCount>>))
)]
pub async fn contact_types(
    State(app): State<App>,
    caller: Caller,
    Query { filter: CampaignParams { campaign_id }, .. }: Query<CampaignParams>,
) -> Result<Data<Vec<ContactTypeCount>>, ApiError> {
    let mut conn = app.connection().await?;
    require(&mut conn, caller.account_id, campaign_id).await?;
    Ok(Data::ok(db::contact_types(&mut conn, caller.account_id, campaign_id, TYPES_MAX).await?))
}

/// Show a summary
///
/// Totals, how long answers take, and the most frequent kinds of contacts, in one page.
#[utoipa::path(
    get, path = "/analytics/summary", params(PeriodParams), responses((status = 200, body = Data<Summary>))
)]
pub async fn summary(
    State(app): State<App>,
    caller: Caller,
    Query { filter, .. }: Query<PeriodParams>,
) -> Result<Data<Summary>, ApiError> {
    let period = period(&app, filter.from, filter.to)?;
    let account_id = caller.account_id;
    let mut conn = app.connection().await?;
    let overview = overview_of(&mut conn, account_id, period).await?;
    let response_time = db::response_times(&mut conn, account_id, period, None).await?;
    let contact_types = db::contact_types(&mut conn, account_id, None, SUMMARY_TYPES).await?;
    Ok(Data::ok(Summary { overview, response_time, contact_types }))
}
