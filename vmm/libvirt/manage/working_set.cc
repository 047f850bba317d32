#include "vmm/libvirt/manage/working_set.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "vmm/libvirt/manage/to_bytes.h"
#include "vmm/text.h"

namespace quire {
namespace {

// The time constants of the two averages.
constexpr absl::Duration kFast = absl::Seconds(10);
constexpr absl::Duration kSlow = absl::Minutes(1);

// What the estimate has to fall by before it is believed.
constexpr double kFall = 0.05;

// A guest that swaps in has less than it needs: what it has, and a twentieth of its memory. It is said to swap if more
// comes in than a ten-thousandth of its memory each second, or 256 KiB: less is what comes back after a quiet time.
constexpr uint64_t kSwapPart = 10'000;
constexpr ByteCount kSwapLeast = ByteCount::KiB(256);
constexpr uint64_t kMorePart = 20;

// Or if so many faults a second wait for a disk, and less than a tenth of its memory is usable: the program's own text.
constexpr double kMajorFaults = 100;

// The clocks of statistics have whole seconds, and those of hosts differ.
constexpr absl::Duration kFuture = absl::Seconds(30);

double Bytes(ByteCount size) { return static_cast<double>(size.in_bytes()); }

absl::Status Useless(absl::string_view why) { return absl::FailedPreconditionError(why); }

}  // namespace

absl::Status CheckStatistics(const DomainObservation& domain, absl::Time time, absl::Duration stale) {
  const DomainMemoryStats& stats = domain.stats;
  if (!stats.updated || !stats.available || !stats.usable) {
    return Useless(
        "its guest tells nothing of its memory: it takes a virtio balloon and its driver, of Linux 4.6 or "
        "newer");
  }
  if (*stats.updated > time + kFuture) return Useless("what its guest says is from the future");
  if (time - *stats.updated > stale) {
    return Useless(absl::StrCat("its guest has said nothing for ",
                                absl::FormatDuration(absl::Trunc(time - *stats.updated, absl::Seconds(1)))));
  }
  if (*stats.available == ByteCount() || *stats.available > domain.memory.maximum) {
    return Useless(absl::StrCat("its guest claims to have ", FormatSize(*stats.available), " of ",
                                FormatSize(domain.memory.maximum)));
  }
  if (*stats.usable > *stats.available || stats.unused.value_or(ByteCount()) > *stats.available) {
    return Useless(
        absl::StrCat("its guest claims that more memory is free than it has, ", FormatSize(*stats.available)));
  }
  return absl::OkStatus();
}

void WorkingSet::Update(const DomainObservation& domain, MonotonicTime now) {
  const absl::Time updated = *domain.stats.updated;
  if (last_ && last_->updated == updated) return;  // nothing new has been said
  NoteKernelsOwn(domain);
  swaps_ = last_ && Swaps(domain);
  double present = Bytes(*domain.stats.available - *domain.stats.usable) + Bytes(kernels_own_);
  if (swaps_) {
    present = std::max(present, Bytes(domain.memory.current) + Bytes(domain.memory.maximum) / kMorePart);
  }
  Smooth(std::min(present, Bytes(domain.memory.maximum)), last_ ? now - last_->at : absl::InfiniteDuration());
  last_ = {.at = now,
           .updated = updated,
           .balloon = domain.memory.current,
           .available = *domain.stats.available,
           .swap_in = domain.stats.swap_in,
           .major_faults = domain.stats.major_faults};
}

// Only while the balloon rests do the guest's figures and the host's belong together: QEMU tells the host's once a
// second.
void WorkingSet::NoteKernelsOwn(const DomainObservation& domain) {
  const double current = Bytes(domain.memory.current), available = Bytes(*domain.stats.available);
  const double still = Bytes(domain.memory.maximum) / 100;
  const bool rests = !last_ || (std::abs(current - Bytes(last_->balloon)) <= still &&
                                std::abs(available - Bytes(last_->available)) <= still);
  if (rests) kernels_own_ = ToBytes(current - available);
}

bool WorkingSet::Swaps(const DomainObservation& domain) const {
  const double seconds = absl::ToDoubleSeconds(*domain.stats.updated - last_->updated);
  if (seconds <= 0) return false;
  const DomainMemoryStats& stats = domain.stats;
  // A count that has become less is that of a guest which was started anew.
  if (stats.swap_in && last_->swap_in && *stats.swap_in > *last_->swap_in) {
    const double least = std::max(Bytes(kSwapLeast), Bytes(domain.memory.maximum) / kSwapPart);
    if (Bytes(*stats.swap_in - *last_->swap_in) / seconds > least) return true;
  }
  if (stats.major_faults && last_->major_faults && *stats.major_faults > *last_->major_faults) {
    const auto faults = static_cast<double>(*stats.major_faults - *last_->major_faults);
    return faults / seconds > kMajorFaults && stats.usable->in_bytes() < stats.available->in_bytes() / 10;
  }
  return false;
}

void WorkingSet::Smooth(double present, absl::Duration passed) {
  const auto follow = [&](double& average, absl::Duration constant) {
    average += (present - average) * (1 - std::exp(-absl::FDivDuration(passed, constant)));
  };
  follow(fast_, kFast);
  follow(slow_, kSlow);
  const double largest = std::max({present, fast_, slow_});
  if (held_ && largest <= Bytes(*held_) && largest >= Bytes(*held_) * (1 - kFall)) return;
  held_ = ToBytes(largest);
}

}  // namespace quire
