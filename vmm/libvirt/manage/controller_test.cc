#include "vmm/libvirt/manage/controller.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/libvirt/manage/simulated_host.h"

namespace quire {
namespace {

using HostState = Controller::HostState;
using testing::HasSubstr;
using testing::IsEmpty;

// A host of 32 GiB that keeps 3.2 of them.
constexpr double kHost = 32 * 1024;

// Rounds until nothing has been changed for a minute; fails if that never comes.
void Settle(SimulatedHost& host) {
  int quiet = 0;
  for (int round = 0; round < 400; ++round) {
    quiet = host.Round().balloons.empty() ? quiet + 1 : 0;
    if (quiet == 12) return;
  }
  ADD_FAILURE() << "it does not settle";
}

// Four guests of 8 GiB that fill all they have with caches.
void AddFour(SimulatedHost& host) {
  for (const char* name : {"a", "b", "c", "d"}) host.Add({.name = name, .maximum = 8192, .uses = 2048});
}

TEST(Controller, LeavesGuestsAloneWhereThereIsPlenty) {
  SimulatedHost host(kHost, Policy());
  host.Add({.name = "a", .maximum = 8192, .uses = 1024});
  host.Add({.name = "b", .maximum = 8192, .uses = 1024});
  for (int round = 0; round < 20; ++round) EXPECT_THAT(host.Round().balloons, IsEmpty());
  EXPECT_EQ(host.controller().state(), HostState::kPlenty);
}

TEST(Controller, TakesFromGuestsUntilTheReserveIsThere) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  EXPECT_LT(host.available(), 100);
  Settle(host);
  EXPECT_GT(host.available(), 0.1 * kHost);
  EXPECT_LT(host.available(), 0.16 * kHost) << "more was taken than was asked for";
  EXPECT_NE(host.controller().state(), HostState::kShort);
}

TEST(Controller, SaysWhy) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  const Decisions decisions = host.Round();
  EXPECT_THAT(decisions.host, HasSubstr("the host is short of memory"));
  ASSERT_FALSE(decisions.balloons.empty());
  EXPECT_THAT(decisions.balloons[0].why, HasSubstr("the host is short of memory, its guest uses 2 GiB"));
  EXPECT_LT(decisions.balloons[0].to, decisions.balloons[0].from);
}

// The figures of hosts and guests are never the same twice; targets are.
TEST(Controller, ChangesNoTargetByMoreThanAHundredthInSteadyState) {
  for (const double noise : {0.0, 0.002, 0.01}) {
    SimulatedHost host(kHost, Policy());
    host.noise = noise;
    AddFour(host);
    host.guest("a").uses = 4096;
    host.guest("b").uses = 500;
    for (int round = 0; round < 120; ++round) host.Round();  // ten minutes to settle
    std::map<std::string, double> first;
    for (const char* name : {"a", "b", "c", "d"}) first[name] = host.guest(name).target;
    for (int round = 0; round < 720; ++round) {  // an hour
      host.Round();
      for (const auto& [name, target] : first) {
        ASSERT_LE(std::abs(host.guest(name).target - target), 0.01 * target) << name << " at noise " << noise;
      }
    }
  }
}

TEST(Controller, ReactsToPressureWithinTenSeconds) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  Settle(host);
  const double before = host.available();
  host.others = 4096;  // something else on the host takes 4 GiB at once
  const MonotonicTime start = host.monotonic();
  double asked = 0;
  while (asked < 2048 && host.monotonic() - start <= absl::Seconds(10)) {
    for (const BalloonDecision& decision : host.Round().balloons) {
      asked += decision.from.in_mib() - decision.to.in_mib();
    }
  }
  EXPECT_LE(host.monotonic() - start, absl::Seconds(10));
  EXPECT_GE(asked, 2048);
  Settle(host);
  EXPECT_GT(host.available(), 0.1 * kHost);
  EXPECT_LT(host.available(), before * 1.5);
}

TEST(Controller, ReactsToStallsOfTheHostWithinTenSeconds) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  Settle(host);
  host.pressure = 30;
  host.Round();
  EXPECT_EQ(host.controller().state(), HostState::kShort);
  Settle(host);
  EXPECT_GT(host.available(), 0.2 * kHost) << "the reserve counts twice";
  host.pressure = 6;  // more than half of the threshold: not over yet
  EXPECT_THAT(host.Round().balloons, IsEmpty());
  host.pressure = 0;
  Settle(host);
  EXPECT_LT(host.available(), 0.2 * kHost);
}

TEST(Controller, GivesMemoryBackWhenThereIsPlenty) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  Settle(host);
  host.Remove("d");
  Settle(host);
  for (const char* name : {"a", "b", "c"}) EXPECT_NEAR(host.guest(name).target, 8192, 82) << name;
}

TEST(Controller, TakesNoGuestBelowItsWorkingSet) {
  SimulatedHost host(kHost, Policy());
  for (const char* name : {"a", "b", "c", "d"}) host.Add({.name = name, .maximum = 8192, .uses = 7600});
  host.others = 8192;
  for (int round = 0; round < 200; ++round) {
    host.Round();
    for (const char* name : {"a", "b", "c", "d"}) {
      ASSERT_GE(host.guest(name).target, 7600) << name;
      ASSERT_EQ(host.guest(name).swapped_in, 0) << name;
    }
  }
  EXPECT_EQ(host.controller().state(), HostState::kShort) << "the host is short of memory all the same";
}

TEST(Controller, LetsAGrowingWorkingSetHaveItsMemoryBack) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  Settle(host);
  const double before = host.guest("a").target;
  ASSERT_LT(before, 7500);
  host.guest("a").uses = 7700;
  Settle(host);
  EXPECT_GT(host.guest("a").target, 7700);
  EXPECT_LT(host.guest("b").target, before);
  const double swapped = host.guest("a").swapped_in;
  for (int round = 0; round < 12; ++round) host.Round();
  EXPECT_EQ(host.guest("a").swapped_in, swapped);
}

// Waldspurger 2002, section 5.2: two guests of equal shares, of which one is idle.
TEST(Controller, TaxesIdleMemory) {
  const auto divide = [](double tax) {
    Policy policy;
    policy.balloon.tax = tax;
    policy.defaults.min = Amount::Part(0.05);
    SimulatedHost host(kHost, policy);
    host.Add({.name = "busy", .maximum = 24 * 1024, .uses = 16 * 1024, .has = 15 * 1024});
    host.Add({.name = "idle", .maximum = 24 * 1024, .uses = 1024, .has = 15 * 1024});
    Settle(host);
    return std::pair(host.guest("busy").target, host.guest("idle").target);
  };
  const auto [busy_taxed, idle_taxed] = divide(0.75);
  const auto [busy, idle] = divide(0);
  EXPECT_GT(busy_taxed, 16 * 1024);
  EXPECT_GT(idle, idle_taxed);
  EXPECT_GT(busy_taxed, 1.5 * idle_taxed);
}

TEST(Controller, DividesByShares) {
  Policy policy;
  policy.domains = {{.name = "gold-*", .shares = 3000, .min = Amount::Part(0.1)}};
  policy.defaults.min = Amount::Part(0.1);
  SimulatedHost host(kHost, policy);
  host.Add({.name = "gold-1", .maximum = 24 * 1024, .uses = 100, .has = 15 * 1024});
  host.Add({.name = "plain", .maximum = 24 * 1024, .uses = 100, .has = 15 * 1024});
  Settle(host);
  EXPECT_NEAR(host.guest("gold-1").target / host.guest("plain").target, 3, 0.2);
}

TEST(Controller, KeepsToBounds) {
  Policy policy;
  policy.domains = {{.name = "a", .min = {.size = ByteCount::GiB(6)}},
                    {.name = "b", .max = {.size = ByteCount::GiB(3)}},
                    {.name = "c", .manage = false}};
  SimulatedHost host(kHost, policy);
  AddFour(host);
  host.others = 8192;
  for (int round = 0; round < 200; ++round) host.Round();
  EXPECT_NEAR(host.guest("a").target, 6144, 1) << "its min";
  EXPECT_LE(host.guest("b").target, 3072) << "its max";
  EXPECT_EQ(host.guest("c").target, 8192) << "not managed";
  host.others = 0;
  host.Remove("c");
  host.Remove("d");
  Settle(host);
  EXPECT_NEAR(host.guest("a").target, 8192, 82);
  EXPECT_NEAR(host.guest("b").target, 3072, 31);
}

TEST(Controller, KeepsToTheStepOfARound) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  host.others = 2048;
  std::map<std::string, double> before;
  for (const char* name : {"a", "b", "c", "d"}) before[name] = host.guest(name).target;
  for (int round = 0; round < 30; ++round) {
    for (const BalloonDecision& decision : host.Round().balloons) {
      // Twice as much where less than half of the reserve is left.
      EXPECT_LE(std::abs(before[decision.name] - decision.to.in_mib()), 2 * 819.2 + 1);
      before[decision.name] = decision.to.in_mib();
    }
  }
}

TEST(Controller, TakesAtOnceWhatAGuestHasNeverTouched) {
  SimulatedHost host(kHost, Policy());
  host.Add({.name = "filler", .maximum = 28 * 1024, .uses = 26 * 1024});
  host.Add({.name = "fresh", .maximum = 16 * 1024, .uses = 1024, .fills = false});
  host.Round();
  EXPECT_LT(host.guest("fresh").target, 6 * 1024);
  EXPECT_GT(host.guest("fresh").target, 1024);
}

TEST(Controller, TakesNothingFromAGuestOfWhichItKnowsNothing) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  host.guest("a").speaks = false;
  for (int round = 0; round < 60; ++round) host.Round();
  EXPECT_EQ(host.guest("a").target, 8192);
  EXPECT_LT(host.guest("b").target, 8000);
}

TEST(Controller, ForgetsAGuestThatStartsAnew) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  Settle(host);
  host.Remove("a");
  host.Round();
  host.Add({.name = "a", .maximum = 8192, .uses = 7000, .id = 2});
  for (int round = 0; round < 60; ++round) {
    host.Round();
    ASSERT_GE(host.guest("a").target, 7000);
  }
}

TEST(Controller, GivesUpOnABalloonThatDoesNotFollowAndTriesAgain) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  host.guest("a").follows = false;
  std::vector<std::string> notes;
  bool left_alone = false, asked_again = false;
  for (int round = 0; round < 120; ++round) {
    const Decisions decisions = host.Round();
    notes.insert(notes.end(), decisions.notes.begin(), decisions.notes.end());
    for (const DomainView& domain : decisions.domains) left_alone |= domain.left_alone == "its balloon does not follow";
    for (const BalloonDecision& decision : decisions.balloons) asked_again |= left_alone && decision.name == "a";
  }
  ASSERT_FALSE(notes.empty());
  EXPECT_THAT(notes[0], HasSubstr("a: its balloon does not follow"));
  EXPECT_TRUE(left_alone);
  EXPECT_TRUE(asked_again);
  EXPECT_GT(host.available(), 0.1 * kHost) << "the others make up for it";
}

TEST(Controller, TakesWhatSomebodyElseHasSetForGiven) {
  SimulatedHost host(kHost, Policy());
  host.Add({.name = "a", .maximum = 8192, .uses = 1024, .has = 4096});
  Settle(host);
  ASSERT_NEAR(host.guest("a").target, 8192, 82);
  host.guest("a").target = 2048;
  std::vector<std::string> notes;
  for (int round = 0; round < 3; ++round) {
    const Decisions decisions = host.Round();
    notes.insert(notes.end(), decisions.notes.begin(), decisions.notes.end());
  }
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_THAT(notes[0], HasSubstr("a: somebody else has changed its memory"));
}

TEST(Controller, LeavesADomainAloneWhoseMemoryCannotBeSet) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  host.Round();
  host.controller().BalloonIsRefused("uuid-of-a");
  for (int round = 0; round < 20; ++round) {
    for (const BalloonDecision& decision : host.Round().balloons) EXPECT_NE(decision.name, "a");
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Guests may say anything
// ---------------------------------------------------------------------------------------------------------------------

struct Lie {
  std::string name;
  void (*tell)(DomainObservation& domain, absl::Time now);
};

constexpr ByteCount kMost = ByteCount::Bytes(std::numeric_limits<uint64_t>::max());

class Lies : public testing::TestWithParam<Lie> {};

TEST_P(Lies, AreNotBelieved) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  for (int round = 0; round < 100; ++round) {
    for (int i = 0; i < 5; ++i) host.Tick();
    Observation observation = host.Observe();
    GetParam().tell(observation.domains[0], host.now());
    const Decisions decisions = host.Decide(observation);
    for (const BalloonDecision& decision : decisions.balloons) {
      EXPECT_NE(decision.name, "a") << decision.why;
      EXPECT_GE(decision.to, ByteCount::MiB(2048));
      EXPECT_LE(decision.to, ByteCount::MiB(8192));
    }
  }
  EXPECT_EQ(host.guest("a").target, 8192);
}

INSTANTIATE_TEST_SUITE_P(
    All, Lies,
    testing::Values(
        Lie{"Nothing", [](DomainObservation& d, absl::Time) { d.stats = {}; }},
        Lie{"NoUsable", [](DomainObservation& d, absl::Time) { d.stats.usable.reset(); }},
        Lie{"NoTotal", [](DomainObservation& d, absl::Time) { d.stats.available.reset(); }},
        Lie{"NoTime", [](DomainObservation& d, absl::Time) { d.stats.updated.reset(); }},
        Lie{"Stale", [](DomainObservation& d, absl::Time now) { d.stats.updated = now - absl::Minutes(1); }},
        Lie{"Ancient", [](DomainObservation& d, absl::Time) { d.stats.updated = absl::FromUnixSeconds(1); }},
        Lie{"FromTheFuture", [](DomainObservation& d, absl::Time now) { d.stats.updated = now + absl::Hours(1); }},
        Lie{"MoreFreeThanThereIs", [](DomainObservation& d, absl::Time) { d.stats.usable = kMost; }},
        Lie{"MoreUnusedThanThereIs", [](DomainObservation& d, absl::Time) { d.stats.unused = kMost; }},
        Lie{"MoreThanItsMaximum", [](DomainObservation& d, absl::Time) { d.stats.available = ByteCount::GiB(9); }},
        Lie{"EndlessMemory",
            [](DomainObservation& d, absl::Time) { d.stats.available = d.stats.usable = d.stats.unused = kMost; }},
        Lie{"NoMemory", [](DomainObservation& d, absl::Time) { d.stats.available = d.stats.usable = ByteCount(); }},
        Lie{"EndlessDomain", [](DomainObservation& d, absl::Time) { d.memory = {.maximum = kMost, .current = kMost}; }},
        Lie{"MoreThanAll", [](DomainObservation& d, absl::Time) { d.memory.current = kMost; }}),
    [](const auto& info) { return info.param.name; });

TEST(Controller, TakesNoHarmFromCountsThatGoBackwards) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  for (int round = 0; round < 100; ++round) {
    host.guest("a").swapped_in = round % 2 == 0 ? 1e9 : 0;
    host.Round();
  }
  EXPECT_GE(host.guest("a").target, 2048);
  EXPECT_LE(host.guest("a").target, 8192);
  EXPECT_GT(host.available(), 0.1 * kHost);
}

TEST(Controller, DoesNothingForNoDomainsAndForAHostOfNothing) {
  Controller controller{Policy()};
  EXPECT_THAT(controller.Decide({}, MonotonicTime()).balloons, IsEmpty());
  SimulatedHost host(0, Policy());
  host.Add({.name = "a", .maximum = 1, .uses = 0});
  for (int round = 0; round < 10; ++round) host.Round();
}

TEST(Controller, CountsADomainThatIsListedTwiceOnce) {
  SimulatedHost host(kHost, Policy());
  AddFour(host);
  Observation observation = host.Observe();
  observation.domains.push_back(observation.domains[0]);
  EXPECT_EQ(host.Decide(observation).domains.size(), 4u);
}

// ---------------------------------------------------------------------------------------------------------------------
// KSM and soft limits
// ---------------------------------------------------------------------------------------------------------------------

Policy WithKsm() {
  Policy policy;
  policy.ksm.enabled = true;
  return policy;
}

Observation HostWithKsm(double available, const HostKsm& ksm) {
  return {.host = {.total = ByteCount::GiB(32),
                   .available = ByteCount::MiB(static_cast<uint64_t>(available * 32 * 1024)),
                   .ksm = ksm}};
}

TEST(Controller, MergesWhereMemoryIsShortAndStopsAfterwards) {
  Controller controller(WithKsm());
  HostKsm ksm = {.run = 0, .pages_to_scan = 100, .sleep_millisecs = 20};
  const auto look = [&](double available) {
    const Decisions decisions = controller.Decide(HostWithKsm(available, ksm), MonotonicTime());
    if (!decisions.ksm) return false;
    if (decisions.ksm->run) ksm.run = *decisions.ksm->run ? 1 : 0;
    ksm.pages_to_scan = decisions.ksm->pages_to_scan.value_or(ksm.pages_to_scan);
    ksm.sleep_millisecs = decisions.ksm->sleep_millisecs.value_or(ksm.sleep_millisecs);
    return true;
  };
  EXPECT_TRUE(look(0.5));
  EXPECT_EQ(ksm.run, 0u);
  EXPECT_EQ(ksm.pages_to_scan, 64u);
  EXPECT_FALSE(look(0.5)) << "all is as it is to be";
  EXPECT_TRUE(look(0.19));
  EXPECT_EQ(ksm.run, 1u);
  EXPECT_EQ(ksm.pages_to_scan, 364u);
  for (int i = 0; i < 5; ++i) look(0.1);
  EXPECT_EQ(ksm.pages_to_scan, 1250u);
  EXPECT_FALSE(look(0.1));
  EXPECT_FALSE(look(0.22)) << "not so much more that it is over";
  EXPECT_EQ(ksm.run, 1u);
  EXPECT_TRUE(look(0.3));
  EXPECT_EQ(ksm.run, 0u);
  EXPECT_EQ(ksm.pages_to_scan, 1200u);
}

TEST(Controller, LeavesKsmAloneUnlessItIsAskedTo) {
  Controller controller{Policy()};
  EXPECT_FALSE(controller.Decide(HostWithKsm(0.05, {.run = 0}), MonotonicTime()).ksm.has_value());
}

TEST(Controller, LeavesRunAloneWhereItIsNotKnown) {
  Controller controller(WithKsm());
  const Decisions decisions =
      controller.Decide(HostWithKsm(0.05, {.pages_to_scan = 100, .sleep_millisecs = 20}), MonotonicTime());
  ASSERT_TRUE(decisions.ksm.has_value());
  EXPECT_FALSE(decisions.ksm->run.has_value());
  EXPECT_EQ(decisions.ksm->pages_to_scan, 400u);
}

TEST(Controller, LimitsDomainsWhileMemoryIsShort) {
  Policy policy;
  policy.memtune.soft_limits = true;
  SimulatedHost host(kHost, policy);
  AddFour(host);
  const Decisions first = host.Round();
  ASSERT_EQ(first.soft_limits.size(), 4u);
  EXPECT_EQ(first.soft_limits[0].to, ByteCount::MiB(8192 + 256)) << "the balloon is not there yet";
  std::map<std::string, ByteCount> limits;
  for (int round = 0; round < 60; ++round) {
    for (const SoftLimitDecision& decision : host.Round().soft_limits) limits[decision.name] = *decision.to;
  }
  EXPECT_NEAR(limits["a"].in_mib(), host.guest("a").target + 256, 0.01 * host.guest("a").target);
  host.Remove("c");
  host.Remove("d");
  const Decisions last = host.Round();
  ASSERT_EQ(last.soft_limits.size(), 2u);
  EXPECT_FALSE(last.soft_limits[0].to.has_value());
}

}  // namespace
}  // namespace quire
