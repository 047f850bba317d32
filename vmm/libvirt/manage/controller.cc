#include "vmm/libvirt/manage/controller.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "vmm/libvirt/manage/allocation.h"
#include "vmm/libvirt/manage/to_bytes.h"
#include "vmm/text.h"

namespace quire {
namespace {

using HostState = Controller::HostState;

// Of the reserve: what is aimed at, and from where on there is plenty.
constexpr double kAim = 1.25, kPlenty = 1.5;

// Statistics are asked for once in a round: older ones are of use for three, and half a minute at least.
constexpr int kFreshRounds = 3;
constexpr absl::Duration kFresh = absl::Seconds(30);

// A guest that has not moved towards what it was asked to have for a minute does not follow; it is asked again later.
constexpr absl::Duration kPatience = absl::Minutes(1);
constexpr absl::Duration kAskAgain = absl::Minutes(5);

// Parts of a domain's memory: how near its target it has arrived, and what counts as a move.
constexpr double kArrived = 0.01, kMove = 0.005;

// More than any machine has; what claims to be larger is not managed. Sums of thousands of these fit.
constexpr ByteCount kLargest = ByteCount::GiB(uint64_t{1} << 20);

// Targets are whole MiB.
constexpr double kGrain = 1 << 20;

double Bytes(ByteCount size) { return static_cast<double>(size.in_bytes()); }
std::string Shown(double bytes) { return FormatSize(ByteCount::MiB(ToBytes(bytes).in_bytes() >> 20)); }

}  // namespace

Decisions Controller::Decide(const Observation& observation, MonotonicTime now) {
  Decisions decisions;
  UpdateHostState(observation.host);
  const std::string kept =
      absl::StrCat(FormatSize(observation.host.available), " of ", FormatSize(observation.host.total), " available, ",
                   FormatSize(reserve_), pressed_ ? " to be kept, twice the reserve since it stalls" : " to be kept");
  decisions.host = absl::StrCat(state_ == HostState::kPlenty     ? "the host has plenty of memory: "
                                : state_ == HostState::kBalanced ? "the host has enough memory: "
                                                                 : "the host is short of memory: ",
                                kept);
  std::vector<Seat> seats = TakeSeats(observation, now, decisions);
  Divide(Budget(observation.host, seats), seats);
  if (policy_.balloon.enabled) DecideBalloons(seats, decisions);
  if (policy_.memtune.soft_limits) DecideSoftLimits(seats, decisions);
  if (policy_.ksm.enabled) DecideKsm(observation.host, decisions);
  for (const Seat& seat : seats) {
    decisions.domains.push_back({.name = seat.domain->name,
                                 .shares = seat.policy->shares,
                                 .current = seat.domain->memory.current,
                                 .working_set = seat.state->known ? seat.state->working_set.size() : std::nullopt,
                                 .least = ToBytes(seat.least),
                                 .most = ToBytes(seat.most),
                                 .target = ToBytes(seat.target),
                                 .left_alone = seat.left_alone});
  }
  return decisions;
}

void Controller::BalloonIsSet(const std::string& uuid, ByteCount target, MonotonicTime now) {
  DomainState& state = states_[uuid];
  state.target = target;
  state.reached = false;
  state.moved_at = now;
}

void Controller::BalloonIsRefused(const std::string& uuid) { states_[uuid].balloon_refused = true; }

void Controller::SoftLimitIsSet(const std::string& uuid, std::optional<ByteCount> limit) {
  states_[uuid].soft_limit = limit;
}

void Controller::SoftLimitIsRefused(const std::string& uuid) { states_[uuid].soft_limit_refused = true; }

void Controller::UpdateHostState(const HostObservation& host) {
  const Policy::Host& policy = policy_.host;
  const double stall = host.pressure.value_or(0);
  pressed_ = stall >= policy.pressure || (pressed_ && stall >= policy.pressure / 2);
  reserve_ = policy.reserve.Of(host.total);
  if (pressed_) reserve_ += reserve_;
  available_ = host.available;
  const double reserve = Bytes(reserve_), available = Bytes(available_);
  if (available < reserve || (state_ == HostState::kShort && available < kAim * reserve)) {
    state_ = HostState::kShort;
  } else if (available > kPlenty * reserve || (state_ == HostState::kPlenty && available >= kAim * reserve)) {
    state_ = HostState::kPlenty;
  } else {
    state_ = HostState::kBalanced;
  }
}

std::vector<Controller::Seat> Controller::TakeSeats(const Observation& observation, MonotonicTime now,
                                                    Decisions& decisions) {
  const absl::Duration stale = std::max(kFresh, policy_.interval * kFreshRounds);
  std::vector<Seat> seats;
  std::set<std::string> there;
  for (const DomainObservation& domain : observation.domains) {
    if (!there.insert(domain.uuid).second) continue;
    DomainState& state = states_[domain.uuid];
    if (state.id != domain.id) state = DomainState{.id = domain.id, .seen = domain.memory.current, .moved_at = now};
    const absl::Status useful = CheckStatistics(domain, observation.time, stale);
    if (useful.ok()) state.working_set.Update(domain, now);
    state.known = useful.ok();
    state.unknown_because = std::string(useful.message());
    Follow(domain, state, now, decisions);
    Seat seat = {.domain = &domain, .policy = &policy_.For(domain.name), .state = &state};
    seat.left_alone = LeftAlone(domain, *seat.policy, state);
    SetBounds(seat);
    seats.push_back(std::move(seat));
  }
  // A domain that has gone begins anew when it comes back.
  for (auto it = states_.begin(); it != states_.end();) it = there.contains(it->first) ? ++it : states_.erase(it);
  return seats;
}

void Controller::Follow(const DomainObservation& domain, DomainState& state, MonotonicTime now,
                        Decisions& decisions) const {
  const double current = Bytes(domain.memory.current), all = Bytes(domain.memory.maximum);
  if (std::abs(current - Bytes(state.seen)) > kMove * all) {
    state.seen = domain.memory.current;
    state.moved_at = now;
  }
  if (state.given_up_at && now - *state.given_up_at >= kAskAgain) state.given_up_at.reset();
  if (!state.target) return;
  if (std::abs(current - Bytes(*state.target)) <= kArrived * all) {
    state.reached = true;
  } else if (state.reached) {
    decisions.notes.push_back(absl::StrCat(domain.name, ": somebody else has changed its memory from ",
                                           FormatSize(*state.target), " to ", FormatSize(domain.memory.current)));
    state.target.reset();
  } else if (now - state.moved_at > kPatience) {
    decisions.notes.push_back(absl::StrCat(domain.name, ": its balloon does not follow: it is to have ",
                                           FormatSize(*state.target), " and has ", FormatSize(domain.memory.current),
                                           "; it is left alone for ", absl::FormatDuration(kAskAgain)));
    state.target.reset();
    state.given_up_at = now;
  }
}

std::string Controller::LeftAlone(const DomainObservation& domain, const DomainPolicy& policy,
                                  const DomainState& state) const {
  if (!policy.manage) return "the policy says so";
  if (state.balloon_refused) return "its memory cannot be set";
  if (state.given_up_at) return "its balloon does not follow";
  if (domain.memory.maximum > kLargest || domain.memory.current > domain.memory.maximum) {
    return absl::StrCat("it cannot have ", FormatSize(domain.memory.current), " of ",
                        FormatSize(domain.memory.maximum));
  }
  return "";
}

void Controller::SetBounds(Seat& seat) const {
  const DomainMemory& memory = seat.domain->memory;
  const double all = Bytes(memory.maximum), current = Bytes(memory.current);
  seat.base = seat.state->target ? Bytes(*seat.state->target) : current;
  seat.footprint = seat.domain->stats.rss ? std::min(Bytes(*seat.domain->stats.rss), current) : current;
  seat.target = seat.base;
  const double most = std::min(all, Bytes(seat.policy->max.Of(memory.maximum)));
  const double least = std::min(most, Bytes(seat.policy->min.Of(memory.maximum)));
  // Of whom nothing is known, nothing is taken.
  seat.active = seat.state->known ? Bytes(*seat.state->working_set.size()) : seat.base;
  const double needed = seat.state->known ? std::min(all, seat.active * (1 + policy_.balloon.headroom)) : seat.base;
  // What it needs and has is not taken from it, even if the policy's bound is less.
  seat.most = std::max(most, std::min(seat.base, needed));
  seat.least = std::clamp(needed, least, seat.most);
  seat.active = std::min(seat.active, seat.most);
}

double Controller::Budget(const HostObservation& host, const std::vector<Seat>& seats) const {
  double held = 0, taken = 0;
  for (const Seat& seat : seats) {
    if (!seat.left_alone.empty()) continue;
    held += seat.base;
    taken += seat.footprint;
  }
  if (state_ == HostState::kBalanced) return held;
  return taken + Bytes(host.available) - kAim * Bytes(reserve_);
}

void Controller::Divide(double budget, std::vector<Seat>& seats) const {
  std::vector<Seat*> all;
  for (Seat& seat : seats) {
    if (seat.left_alone.empty()) all.push_back(&seat);
  }
  double least = 0;
  for (const Seat* seat : all) least += seat->least;
  std::vector<Claim> claims;
  for (const Seat* seat : all) {
    Claim claim = {.shares = seat->policy->shares, .active = ToBytes(seat->active)};
    if (least <= budget) {
      claim.least = ToBytes(seat->least);
      claim.most = ToBytes(seat->most);
    } else {
      // Not all can have what they need: nobody gets more than that, and nobody loses who has less.
      claim.least = ToBytes(std::min(seat->base, seat->least));
      claim.most = ToBytes(seat->least);
    }
    claims.push_back(claim);
  }
  const std::vector<ByteCount> given = Allocate(ToBytes(budget), policy_.balloon.tax, claims);
  for (size_t i = 0; i < all.size(); ++i) all[i]->target = Limited(*all[i], Bytes(given[i]));
}

// What it is to have in this round, on the way to what it is to have in the end.
double Controller::Limited(const Seat& seat, double wanted) const {
  if (state_ == HostState::kPlenty) wanted = std::min(std::max(wanted, seat.base), seat.most);
  const bool critical = state_ == HostState::kShort && Bytes(available_) < Bytes(reserve_) / 2;
  const double step = policy_.balloon.step * Bytes(seat.domain->memory.maximum) * (critical ? 2 : 1);
  if (wanted < seat.base) {
    // Memory that it has never touched is given back at once: nobody misses it.
    const double touched = std::clamp(seat.footprint, wanted, seat.base);
    wanted = std::max(wanted, touched - step);
  } else {
    wanted = critical ? seat.base : std::min(wanted, seat.base + step);
  }
  const double whole = std::min(std::ceil(wanted / kGrain) * kGrain, Bytes(seat.domain->memory.maximum));
  return std::abs(whole - seat.base) < policy_.balloon.deadband * seat.base ? seat.base : whole;
}

std::string Controller::Why(const Seat& seat) const {
  const std::string needs =
      seat.state->known
          ? absl::StrCat("its guest uses ", Shown(seat.active), ", and it has ", seat.policy->shares, " shares")
          : absl::StrCat("of what its guest uses nothing is known (", seat.state->unknown_because, ")");
  if (seat.target < seat.base) {
    return absl::StrCat(state_ == HostState::kShort      ? "the host is short of memory, "
                        : state_ == HostState::kBalanced ? "others can use it better: "
                                                         : "it has more than its bound: ",
                        needs);
  }
  if (seat.state->known && seat.state->working_set.swaps()) return "its guest swaps";
  return absl::StrCat(state_ == HostState::kPlenty ? "the host has memory to spare, " : "others leave it idle: ",
                      needs);
}

void Controller::DecideBalloons(const std::vector<Seat>& seats, Decisions& decisions) const {
  for (const bool shrinks : {true, false}) {
    for (const Seat& seat : seats) {
      if (!seat.left_alone.empty() || seat.target == seat.base || (seat.target < seat.base) != shrinks) continue;
      decisions.balloons.push_back({.uuid = seat.domain->uuid,
                                    .name = seat.domain->name,
                                    .from = ToBytes(seat.base),
                                    .to = ToBytes(seat.target),
                                    .why = Why(seat)});
    }
  }
}

// Where memory is short, the host's own reclaim is to find first who has more than it is to have.
void Controller::DecideSoftLimits(const std::vector<Seat>& seats, Decisions& decisions) const {
  for (const Seat& seat : seats) {
    const DomainState& state = *seat.state;
    if (!seat.policy->manage || state.soft_limit_refused || seat.domain->memory.maximum > kLargest) continue;
    SoftLimitDecision decision = {.uuid = seat.domain->uuid, .name = seat.domain->name};
    if (state_ == HostState::kPlenty) {
      if (!state.soft_limit) continue;
      decision.why = "the host has memory to spare";
    } else {
      // A balloon takes its time: until it is there the domain has what it has.
      const double held = std::max(seat.target, Bytes(seat.domain->memory.current));
      decision.to = ByteCount::MiB(ToBytes(held).in_bytes() >> 20) + policy_.memtune.overhead;
      const double now = Bytes(state.soft_limit.value_or(ByteCount()));
      if (std::abs(Bytes(*decision.to) - now) < policy_.balloon.deadband * now) continue;
      decision.why = absl::StrCat("it is to have ", Shown(seat.target), ", and its process ",
                                  FormatSize(policy_.memtune.overhead), " beside that");
    }
    decisions.soft_limits.push_back(std::move(decision));
  }
}

// As ksmtuned and MOM do it: merging costs CPU time, so it is quick while memory is short, and slow while it is not.
void Controller::DecideKsm(const HostObservation& host, Decisions& decisions) {
  if (!host.ksm) return;
  const Policy::Ksm& policy = policy_.ksm;
  const double below = Bytes(policy.below.Of(host.total)), available = Bytes(host.available);
  const bool was_short = merging_;
  merging_ = available < below || (was_short && available < kAim * below);
  const auto pages = static_cast<int64_t>(std::min<uint64_t>(host.ksm->pages_to_scan, policy.most_pages));
  const int64_t wanted =
      std::clamp(merging_ ? pages + policy.boost : pages - policy.decay, policy.least_pages, policy.most_pages);
  KsmDecision decision;
  if (host.ksm->run && (*host.ksm->run == 1) != merging_) decision.run = merging_;
  if (static_cast<uint64_t>(wanted) != host.ksm->pages_to_scan) decision.pages_to_scan = wanted;
  const auto sleep = static_cast<uint64_t>(policy.sleep_millisecs);
  if (sleep != host.ksm->sleep_millisecs) decision.sleep_millisecs = sleep;
  if (!decision.run && !decision.pages_to_scan && !decision.sleep_millisecs) return;
  decision.why = absl::StrCat(FormatSize(host.available), " available, and below ", Shown(below), " it merges");
  decisions.ksm = decision;
}

}  // namespace quire
