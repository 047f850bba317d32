// The controller on statistics that a real guest gave a real libvirt: recorded/guest.txt.
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "vmm/libvirt/manage/controller.h"
#include "vmm/libvirt/manage/observation.h"
#include "vmm/libvirt/manage/policy.h"
#include "vmm/libvirt/manage/working_set.h"

namespace quire {
namespace {

constexpr ByteCount kAll = ByteCount::MiB(256);

struct Sample {
  int64_t second = 0;
  DomainObservation domain = {};
};

absl::Time TimeAt(int64_t second) { return absl::FromUnixSeconds(1'700'000'000 + second); }
MonotonicTime MonotonicAt(int64_t second) { return MonotonicTime::FromNanoseconds(second * 1'000'000'000); }

std::vector<Sample> Recorded() {
  std::vector<Sample> samples;
  std::ifstream file("vmm/libvirt/manage/recorded/guest.txt");
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    int64_t second = 0, updated = 0;
    uint64_t current = 0, available = 0, usable = 0, unused = 0, swap_in = 0, major_faults = 0, rss = 0;
    words >> second >> updated >> current >> available >> usable >> unused >> swap_in >> major_faults >> rss;
    EXPECT_FALSE(words.fail()) << line;
    samples.push_back({.second = second,
                       .domain = {.uuid = "uuid",
                                  .name = "recorded",
                                  .id = 1,
                                  .memory = {.maximum = kAll, .current = ByteCount::KiB(current)},
                                  .stats = {.swap_in = ByteCount::KiB(swap_in),
                                            .major_faults = major_faults,
                                            .unused = ByteCount::KiB(unused),
                                            .available = ByteCount::KiB(available),
                                            .usable = ByteCount::KiB(usable),
                                            .balloon = ByteCount::KiB(current),
                                            .rss = ByteCount::KiB(rss),
                                            .updated = TimeAt(updated)}}});
  }
  EXPECT_GT(samples.size(), 90u);
  return samples;
}

ByteCount Used(const DomainObservation& domain) { return *domain.stats.available - *domain.stats.usable; }

// What a guest uses between now and so many seconds from now is not known now; what it uses now is.
TEST(Recorded, TakesNoGuestBelowWhatItUses) {
  Policy policy;
  policy.interval = absl::Seconds(1);
  policy.defaults.min = Amount::Part(0.05);
  Controller controller(policy);
  int decisions = 0;
  for (const Sample& sample : Recorded()) {
    const Observation seen = {.time = TimeAt(sample.second),
                              .host = {.total = ByteCount::GiB(8), .available = ByteCount::MiB(64)},
                              .domains = {sample.domain}};
    for (const BalloonDecision& decision : controller.Decide(seen, MonotonicAt(sample.second)).balloons) {
      ++decisions;
      EXPECT_GE(decision.to, Used(sample.domain)) << "in second " << sample.second;
      EXPECT_LE(decision.to, kAll);
    }
  }
  EXPECT_GT(decisions, 20) << "the host is short of memory all the time";
}

// The estimate follows the guest up at once, while its balloon moves too, and is no more than a tenth of its memory
// above the most that it has used in the last two minutes.
TEST(Recorded, EstimatesAWorkingSetThatFollowsTheGuest) {
  WorkingSet working_set;
  ByteCount most;
  for (const Sample& sample : Recorded()) {
    working_set.Update(sample.domain, MonotonicAt(sample.second));
    most = std::max(most, Used(sample.domain));
    ASSERT_TRUE(working_set.size().has_value());
    EXPECT_GE(*working_set.size(), Used(sample.domain)) << "in second " << sample.second;
    EXPECT_LE(working_set.size()->in_mib(), most.in_mib() + kAll.in_mib() * 0.3) << "in second " << sample.second;
  }
}

// Where the host has enough, and the guest does what it did, nothing is changed.
TEST(Recorded, LeavesAQuietGuestAlone) {
  Policy policy;
  policy.interval = absl::Seconds(1);
  Controller controller(policy);
  for (const Sample& sample : Recorded()) {
    if (sample.domain.memory.current != kAll) break;
    const Observation seen = {.time = TimeAt(sample.second),
                              .host = {.total = ByteCount::GiB(8), .available = ByteCount::MiB(1000)},
                              .domains = {sample.domain}};
    EXPECT_TRUE(controller.Decide(seen, MonotonicAt(sample.second)).balloons.empty()) << sample.second;
  }
}

}  // namespace
}  // namespace quire
