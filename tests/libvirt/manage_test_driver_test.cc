// `quire manage` as users start it, on libvirt's test driver.
#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using testing::HasSubstr;

struct Outcome {
  int status = -1;
  std::string said;
};

Outcome Manage(const std::string& flags) {
  Outcome outcome;
  FILE* const pipe = popen(absl::StrCat("vmm/quire manage --connect=test:///default ", flags, " 2>&1").c_str(), "r");
  char part[256];
  while (std::fgets(part, sizeof(part), pipe) != nullptr) outcome.said += part;
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

std::string PolicyFile(const std::string& text) {
  const std::string path = testing::TempDir() + "/policy.toml";
  std::ofstream(path) << "interval = 1\n" << text;
  return path;
}

// What the driver says of its guest is from 1989: nothing is taken from it.
TEST(ManageTestDriver, LooksAtADomainOfWhichItKnowsNothing) {
  const Outcome outcome = Manage("--dry-run --once --policy=" + PolicyFile("[host]\nreserve = \"90%\"\n"));
  EXPECT_EQ(outcome.status, 0) << outcome.said;
  EXPECT_THAT(outcome.said, HasSubstr("test "));
  EXPECT_THAT(outcome.said, HasSubstr("not known"));
  EXPECT_THAT(outcome.said, HasSubstr("no domain's memory is to be changed"));
}

TEST(ManageTestDriver, WouldGiveItMoreOfAHostThatHasPlenty) {
  const Outcome outcome = Manage("--dry-run --once --policy=" + PolicyFile("[host]\nreserve = \"1M\"\n"));
  EXPECT_EQ(outcome.status, 0) << outcome.said;
  EXPECT_THAT(outcome.said, HasSubstr("would change: test  memory 2 GiB -> "));
  EXPECT_THAT(outcome.said, HasSubstr("the host has memory to spare"));
}

TEST(ManageTestDriver, SaysThatItHasNoKsm) {
  const Outcome outcome = Manage("--dry-run --once --policy=" + PolicyFile("[ksm]\nenabled = true\n"));
  EXPECT_EQ(outcome.status, 3) << outcome.said;
  EXPECT_THAT(outcome.said, HasSubstr("the policy has the host's same-page merging managed"));
}

TEST(ManageTestDriver, SaysWhatIsWrongWithAPolicy) {
  const Outcome outcome = Manage("--dry-run --policy=" + PolicyFile("[balloon]\ntax = 2\n"));
  EXPECT_EQ(outcome.status, 2) << outcome.said;
  EXPECT_THAT(outcome.said, HasSubstr("policy.toml:3: tax in [balloon] is to be a number from 0 to 0.99"));
}

}  // namespace
}  // namespace quire
