#include "vmm/libvirt/qemu/console_tail.h"

#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

class ConsoleTailTest : public testing::Test {
 protected:
  void SetUp() override { unlink(path_.c_str()); }
  void Append(const std::string& text) const { std::ofstream(path_, std::ios::app) << text; }

  const std::string path_ = absl::StrCat(testing::TempDir(), "/console-tail-test");
  ConsoleTail console_{path_};
};

TEST_F(ConsoleTailTest, ReadsWhatComesInPieces) {
  console_.Read();
  EXPECT_TRUE(console_.report().values().empty());
  Append("quire: boot=ok oper");
  console_.Read();
  EXPECT_EQ(console_.report().Get("boot"), "");
  Append("ations=12\nquire: opera");
  console_.Read();
  EXPECT_EQ(console_.report().Get("boot"), "ok");
  EXPECT_EQ(console_.report().operations(), 12u);
  Append("tions=13\n");
  console_.Read();
  EXPECT_EQ(console_.report().operations(), 13u);
}

TEST_F(ConsoleTailTest, ANewFileIsReadFromItsBeginning) {
  Append("quire: operations=1 and a long line, longer than the next file\n");
  console_.Read();
  // As virtlogd does: a new one under the same name.
  rename(path_.c_str(), (path_ + ".0").c_str());
  Append("quire: operations=2\n");
  console_.Read();
  EXPECT_EQ(console_.report().operations(), 2u);
  // And one that is cut off.
  std::ofstream(path_, std::ios::trunc) << "quire: operations=3\n";
  ASSERT_EQ(truncate(path_.c_str(), 5), 0);
  console_.Read();
  Append(": operations=4\n");
  console_.Read();
  EXPECT_EQ(console_.report().operations(), 4u);
  unlink((path_ + ".0").c_str());
}

TEST_F(ConsoleTailTest, AFloodIsReadALittleAtATime) {
  Append(std::string(ConsoleTail::kMostAtOnce, '.') + "\nquire: operations=5\n");
  console_.Read();
  EXPECT_EQ(console_.report().operations(), 0u);
  console_.Read();
  EXPECT_EQ(console_.report().operations(), 5u);
}

}  // namespace
}  // namespace quire
