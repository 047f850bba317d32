// Pages of a real program, for tests of what is stored of them: how far pages compress decides what their store wastes,
// and made-up pages are all too much alike.
#ifndef QUIRE_GUEST_SWAP_TESTING_REAL_PAGES_H_
#define QUIRE_GUEST_SWAP_TESTING_REAL_PAGES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/units.h"

namespace quire {

using RealPage = std::array<std::byte, kPageSize>;

// The pages of a file, by default the running program's own, without those that are one word all over.
inline std::vector<RealPage> RealPages(const std::string& path = "/proc/self/exe") {
  std::ifstream file(path, std::ios::binary);
  std::vector<RealPage> pages;
  RealPage page;
  while (file.read(reinterpret_cast<char*>(page.data()), page.size())) {
    if (std::memcmp(&page[0], &page[8], page.size() - 8) != 0) pages.push_back(page);
  }
  QUIRE_CHECK(!pages.empty());
  return pages;
}

// The page, changed so that each seed makes another of about the same compressed size.
inline RealPage Variant(RealPage page, uint64_t seed) {
  std::memcpy(&page[1024], &seed, sizeof seed);
  return page;
}

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_TESTING_REAL_PAGES_H_
