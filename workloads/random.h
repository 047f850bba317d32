// Random numbers for workloads and their content. Freestanding: also compiled into the payload of KVM guests.
//
// SplitMix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, with the constants of
// Vigna's splitmix64.c (public domain).
#ifndef QUIRE_WORKLOADS_RANDOM_H_
#define QUIRE_WORKLOADS_RANDOM_H_

#include <stdint.h>

namespace quire {

// A bijection of 64-bit numbers in which every bit of the result depends on every bit of `x`.
constexpr uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// `random` scaled to [0, limit): the high half of the product (Lemire, "Fast Random Integer Generation in an Interval",
// 2019, without its rejection step: the bias is below limit / 2^64).
constexpr uint64_t ScaleTo(uint64_t random, uint64_t limit) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(random) * limit) >> 64);
}

// A sequence that its seed determines. Not thread-safe.
class Random {
 public:
  constexpr explicit Random(uint64_t seed) : state_(seed) {}

  constexpr uint64_t Next() {
    const uint64_t value = Mix64(state_);
    state_ += 0x9e3779b97f4a7c15;
    return value;
  }
  // Uniform in [0, limit); 0 when `limit` is 0.
  constexpr uint64_t Below(uint64_t limit) { return ScaleTo(Next(), limit); }

 private:
  uint64_t state_;
};

}  // namespace quire

#endif  // QUIRE_WORKLOADS_RANDOM_H_
