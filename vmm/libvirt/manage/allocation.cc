#include "vmm/libvirt/manage/allocation.h"

#include <algorithm>
#include <cstdint>

#include "base/check.h"
#include "vmm/libvirt/manage/to_bytes.h"

namespace quire {
namespace {

double Bytes(ByteCount size) { return static_cast<double>(size.in_bytes()); }

// A claim's memory where a page is worth so many bytes for each share: P * (f + k * (1 - f)) = worth * S, solved for P,
// since f * P is what is active, whatever P is.
double MemoryAt(double worth, double k, const Claim& claim) {
  const double priced = worth * claim.shares, active = Bytes(claim.active);
  const double memory = priced <= active ? priced : active + (priced - active) / k;
  return std::clamp(memory, Bytes(claim.least), Bytes(claim.most));
}

double SumAt(double worth, double k, absl::Span<const Claim> claims) {
  double sum = 0;
  for (const Claim& claim : claims) sum += MemoryAt(worth, k, claim);
  return sum;
}

// Where every claim is at its most.
double HighestWorth(double k, absl::Span<const Claim> claims) {
  double worth = 0;
  for (const Claim& claim : claims) worth = std::max(worth, k * Bytes(claim.most) / claim.shares);
  return worth;
}

}  // namespace

std::vector<ByteCount> Allocate(ByteCount memory, double tax, absl::Span<const Claim> claims) {
  for (const Claim& claim : claims) QUIRE_CHECK(claim.shares > 0 && claim.least <= claim.most);
  const double k = 1 / (1 - tax);
  // The sum grows with the worth: halved so often, the interval is smaller than a byte of any memory.
  constexpr int kHalvings = 100;
  double low = 0, high = HighestWorth(k, claims);
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    (SumAt(middle, k, claims) <= Bytes(memory) ? low : high) = middle;
  }
  const double worth = SumAt(high, k, claims) <= Bytes(memory) ? high : low;
  std::vector<ByteCount> allocated;
  for (const Claim& claim : claims) {
    allocated.push_back(ToBytes(MemoryAt(worth, k, claim)));
  }
  return allocated;
}

}  // namespace quire
