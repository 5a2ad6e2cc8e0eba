// From the pixels of a photo to what the network sees: the resize of Pillow to the last bit, then the crop of the middle.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "settings.hpp"

// RGB, row by row.
struct Photo {
    int width, height;
    std::vector<std::uint8_t> data;
};

namespace reading {

constexpr int precision = 22;  // bits after the binary point of a weight

inline double bilinear(double x) { return std::max(0.0, 1 - std::fabs(x)); }

inline double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// For every pixel along an axis: the first pixel of the photo that counts, and the weights of that and the next ones.
struct Weights {
    std::vector<int> starts;
    std::vector<std::vector<std::int32_t>> values;

    Weights(int length, double low, double high, int pixels) {
        const bool is_cubic = std::strcmp(settings::interpolation, "bicubic") == 0;
        const double scale = static_cast<double>(static_cast<float>(high - low)) / pixels;  // as in Pillow
        const double stretch = std::max(1.0, scale);  // a photo that is made smaller is averaged
        const double reach = (is_cubic ? 2 : 1) * stretch;
        for (int pixel = 0; pixel < pixels; ++pixel) {
            const double centre = low + (pixel + 0.5) * scale;
            const int start = std::max(0, static_cast<int>(centre - reach + 0.5));
            const int count = std::min(length, static_cast<int>(centre + reach + 0.5)) - start;
            std::vector<double> own(count);
            double sum = 0;
            for (int tap = 0; tap < count; ++tap) {
                const double at = (tap + start - centre + 0.5) * (1 / stretch);
                sum += own[tap] = is_cubic ? bicubic(at) : bilinear(at);
            }
            std::vector<std::int32_t> rounded(count);
            for (int tap = 0; tap < count; ++tap) {
                const double scaled = own[tap] / sum * (1 << precision);
                rounded[tap] = static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
            }
            starts.push_back(start);
            values.push_back(std::move(rounded));
        }
    }
};

// One pixel: the weighted sum of pixels that lie `step` bytes apart.
inline void weigh(const std::uint8_t* from, std::size_t step, const std::vector<std::int32_t>& weights, std::uint8_t* to) {
    std::array<std::int32_t, 3> sums;
    sums.fill(1 << (precision - 1));
    for (std::size_t tap = 0; tap < weights.size(); ++tap)
        for (int channel = 0; channel < 3; ++channel) sums[channel] += from[tap * step + channel] * weights[tap];
    for (int channel = 0; channel < 3; ++channel)
        to[channel] = static_cast<std::uint8_t>(std::clamp(sums[channel] >> precision, 0, 255));
}

// Another width.
inline Photo across(const Photo& photo, const Weights& weights) {
    const int columns = static_cast<int>(weights.starts.size());
    Photo found{columns, photo.height, std::vector<std::uint8_t>(std::size_t(columns) * photo.height * 3)};
    for (int row = 0; row < photo.height; ++row)
        for (int column = 0; column < columns; ++column)
            weigh(&photo.data[(std::size_t(row) * photo.width + weights.starts[column]) * 3], 3, weights.values[column],
                  &found.data[(std::size_t(row) * columns + column) * 3]);
    return found;
}

// Another height.
inline Photo down(const Photo& photo, const Weights& weights) {
    const int rows = static_cast<int>(weights.starts.size());
    Photo found{photo.width, rows, std::vector<std::uint8_t>(std::size_t(photo.width) * rows * 3)};
    for (int row = 0; row < rows; ++row)
        for (int column = 0; column < photo.width; ++column)
            weigh(&photo.data[(std::size_t(weights.starts[row]) * photo.width + column) * 3], std::size_t(photo.width) * 3,
                  weights.values[row], &found.data[(std::size_t(row) * photo.width + column) * 3]);
    return found;
}

// `box` of a photo (left, top, right, bottom) at columns x rows.
inline Photo resample(const Photo& photo, const std::array<double, 4>& box, int columns, int rows) {
    std::array<double, 4> single;  // Pillow has the box in single precision
    std::transform(box.begin(), box.end(), single.begin(), [](double side) { return static_cast<float>(side); });
    const auto [left, top, right, bottom] = single;
    const bool is_across = columns != photo.width || left != 0 || right != photo.width;
    const bool is_down = rows != photo.height || top != 0 || bottom != photo.height;
    // the order that Pillow takes; rounding in between makes it matter
    const bool down_first = photo.height > rows && photo.height - rows > (photo.width - columns) * 2;
    Photo found = photo;
    if (is_down && down_first) found = down(found, Weights(photo.height, top, bottom, rows));
    if (is_across) found = across(found, Weights(photo.width, left, right, columns));
    if (is_down && !down_first) found = down(found, Weights(photo.height, top, bottom, rows));
    return found;
}

// The image that the network sees, of the crop's size; throws where a photo is smaller than that.
inline std::vector<std::uint8_t> read_pixels(const Photo& photo) {
    using namespace settings;
    const double width = photo.width, height = photo.height, rows = image_rows, columns = image_columns;
    const std::string mode = resize;
    const bool is_short = photo.height < crop_rows, is_narrow = photo.width < crop_columns;
    if (mode == "pad" ? is_short && is_narrow : is_short || is_narrow)
        throw std::runtime_error("it has " + std::to_string(photo.width) + "x" + std::to_string(photo.height) +
                                 " pixels, smaller than the crop of " + std::to_string(crop_columns) + "x" +
                                 std::to_string(crop_rows));
    std::array<double, 4> box{0, 0, width, height};
    int left = 0, top = 0, right = image_columns, bottom = image_rows;
    const bool is_wide = rows * width >= columns * height;
    if (mode == "shorter-side" && is_wide) {
        const double length = columns * height / rows;
        box = {(width - length) / 2, 0, (width + length) / 2, height};
    } else if (mode == "shorter-side") {
        const double length = rows * width / columns;
        box = {0, (height - length) / 2, width, (height + length) / 2};
    } else if (mode == "pad" && is_wide) {
        const int length = std::max(1, static_cast<int>(std::nearbyint(columns * height / width)));
        top = (image_rows - length) / 2;
        bottom = top + length;
    } else if (mode == "pad") {
        const int length = std::max(1, static_cast<int>(std::nearbyint(rows * width / height)));
        left = (image_columns - length) / 2;
        right = left + length;
    }
    const Photo resized = resample(photo, box, right - left, bottom - top);
    const int crop_top = (image_rows - crop_rows) / 2, crop_left = (image_columns - crop_columns) / 2;
    std::vector<std::uint8_t> pixels(std::size_t(crop_rows) * crop_columns * 3);  // what is not filled is a black border
    for (int row = 0; row < crop_rows; ++row)
        for (int column = 0; column < crop_columns; ++column) {
            const int from_row = row + crop_top - top, from_column = column + crop_left - left;
            if (from_row < 0 || from_row >= resized.height || from_column < 0 || from_column >= resized.width) continue;
            std::copy_n(&resized.data[(std::size_t(from_row) * resized.width + from_column) * 3], 3,
                        &pixels[(std::size_t(row) * crop_columns + column) * 3]);
        }
    return pixels;
}

}  // namespace reading
