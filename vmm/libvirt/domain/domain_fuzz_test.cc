// What the fuzzer has found worth keeping, descriptions as they are found, malformed ones, and thousands of small
// breakages of those, in every test run.
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/testing/broken_files.h"
#include "base/testing/fuzz_target.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(DomainFuzz, KeepsItsPromisesForTheCorpus) {
  const std::vector<std::string> files = FilesIn("vmm/libvirt/domain/domain_corpus", ".xml");
  EXPECT_GT(files.size(), 3u);
  for (const std::string& file : files) Try(file);
}

TEST(DomainFuzz, KeepsItsPromisesForMalformedDomains) {
  const std::vector<std::string> files = FilesIn("vmm/libvirt/domain/testdata/malformed", ".xml");
  EXPECT_GT(files.size(), 10u);
  for (const std::string& file : files) Try(file);
}

TEST(DomainFuzz, KeepsItsPromisesForBrokenDomains) {
  const std::vector<std::string> files = FilesIn("vmm/libvirt/domain/testdata", ".xml");
  ASSERT_FALSE(files.empty());
  std::mt19937_64 random(1);
  const std::string bytes = "<>/'\"=&;: \n-0159kMiB\xff\r#!?[]";
  for (int round = 0; round < 3000; ++round) {
    Try(Broken(files[random() % files.size()], bytes, random));
  }
}

}  // namespace
}  // namespace quire
