// From the pixels of a photo to what the network sees: the resize of Pillow to the last bit, then the crop of the middle.
using System;
using System.IO;

namespace Padim
{
    /// <summary>RGB, row by row.</summary>
    public sealed class Photo
    {
        public Photo(int width, int height, byte[] data)
        {
            Width = width;
            Height = height;
            Data = data;
        }

        public int Width { get; }
        public int Height { get; }
        public byte[] Data { get; }
    }

    public static class Reading
    {
        private const int Precision = 22; // bits after the binary point of a weight

        /// <summary>The image that the network sees, of the crop's size.</summary>
        /// <exception cref="InvalidDataException">A photo that is smaller than the crop.</exception>
        public static byte[] ReadPixels(Photo photo)
        {
            bool isShort = photo.Height < Settings.CropRows, isNarrow = photo.Width < Settings.CropColumns;
            string mode = Settings.Resize;
            if (mode == "pad" ? isShort && isNarrow : isShort || isNarrow)
            {
                throw new InvalidDataException(
                    $"it has {photo.Width}x{photo.Height} pixels, smaller than the crop of " +
                    $"{Settings.CropColumns}x{Settings.CropRows}");
            }
            double width = photo.Width, height = photo.Height, rows = Settings.ImageRows, columns = Settings.ImageColumns;
            double[] box = { 0, 0, width, height };
            int left = 0, top = 0, right = Settings.ImageColumns, bottom = Settings.ImageRows;
            bool isWide = rows * width >= columns * height;
            if (mode == "shorter-side" && isWide)
            {
                double length = columns * height / rows;
                box = new[] { (width - length) / 2, 0, (width + length) / 2, height };
            }
            else if (mode == "shorter-side")
            {
                double length = rows * width / columns;
                box = new[] { 0, (height - length) / 2, width, (height + length) / 2 };
            }
            else if (mode == "pad" && isWide)
            {
                int length = Math.Max(1, (int)Math.Round(columns * height / width, MidpointRounding.ToEven));
                top = (Settings.ImageRows - length) / 2;
                bottom = top + length;
            }
            else if (mode == "pad")
            {
                int length = Math.Max(1, (int)Math.Round(rows * width / height, MidpointRounding.ToEven));
                left = (Settings.ImageColumns - length) / 2;
                right = left + length;
            }
            Photo resized = Resample(photo, box, right - left, bottom - top);
            int cropTop = (Settings.ImageRows - Settings.CropRows) / 2;
            int cropLeft = (Settings.ImageColumns - Settings.CropColumns) / 2;
            var pixels = new byte[Settings.CropRows * Settings.CropColumns * 3]; // what is not filled is a black border
            for (int row = 0; row < Settings.CropRows; row++)
            {
                for (int column = 0; column < Settings.CropColumns; column++)
                {
                    int fromRow = row + cropTop - top, fromColumn = column + cropLeft - left;
                    if (fromRow < 0 || fromRow >= resized.Height || fromColumn < 0 || fromColumn >= resized.Width)
                    {
                        continue;
                    }
                    int from = (fromRow * resized.Width + fromColumn) * 3;
                    Array.Copy(resized.Data, from, pixels, (row * Settings.CropColumns + column) * 3, 3);
                }
            }
            return pixels;
        }

        private static Photo Resample(Photo photo, double[] box, int columns, int rows)
        {
            double left = (float)box[0], top = (float)box[1]; // Pillow has the box in single precision
            double right = (float)box[2], bottom = (float)box[3];
            bool isAcross = columns != photo.Width || left != 0 || right != photo.Width;
            bool isDown = rows != photo.Height || top != 0 || bottom != photo.Height;
            // the order that Pillow takes; rounding in between makes it matter
            bool downFirst = photo.Height > rows && photo.Height - rows > (photo.Width - columns) * 2;
            Photo found = photo;
            if (isDown && downFirst) found = Down(found, new Weights(photo.Height, top, bottom, rows));
            if (isAcross) found = Across(found, new Weights(photo.Width, left, right, columns));
            if (isDown && !downFirst) found = Down(found, new Weights(photo.Height, top, bottom, rows));
            return found;
        }

        private static Photo Across(Photo photo, Weights weights)
        {
            int columns = weights.Starts.Length;
            var found = new byte[columns * photo.Height * 3];
            for (int row = 0; row < photo.Height; row++)
            {
                for (int column = 0; column < columns; column++)
                {
                    int from = (row * photo.Width + weights.Starts[column]) * 3;
                    Weigh(photo.Data, from, 3, weights.Values[column], found, (row * columns + column) * 3);
                }
            }
            return new Photo(columns, photo.Height, found);
        }

        private static Photo Down(Photo photo, Weights weights)
        {
            int rows = weights.Starts.Length, width = photo.Width;
            var found = new byte[width * rows * 3];
            for (int row = 0; row < rows; row++)
            {
                for (int column = 0; column < width; column++)
                {
                    int from = (weights.Starts[row] * width + column) * 3;
                    Weigh(photo.Data, from, width * 3, weights.Values[row], found, (row * width + column) * 3);
                }
            }
            return new Photo(width, rows, found);
        }

        /// <summary>One pixel: the weighted sum of pixels that lie <c>step</c> bytes apart.</summary>
        private static void Weigh(byte[] data, int from, int step, int[] weights, byte[] found, int to)
        {
            for (int channel = 0; channel < 3; channel++)
            {
                int sum = 1 << (Precision - 1);
                for (int tap = 0; tap < weights.Length; tap++) sum += data[from + tap * step + channel] * weights[tap];
                found[to + channel] = (byte)Math.Min(255, Math.Max(0, sum >> Precision));
            }
        }

        /// <summary>For every pixel along an axis: the first pixel of the photo that counts, and the weights from there.</summary>
        private sealed class Weights
        {
            public readonly int[] Starts;
            public readonly int[][] Values;

            public Weights(int length, double low, double high, int pixels)
            {
                bool isCubic = Settings.Interpolation == "bicubic";
                double scale = (double)(float)(high - low) / pixels; // as in Pillow
                double stretch = Math.Max(1, scale); // a photo that is made smaller is averaged
                double reach = (isCubic ? 2 : 1) * stretch;
                Starts = new int[pixels];
                Values = new int[pixels][];
                for (int pixel = 0; pixel < pixels; pixel++)
                {
                    double centre = low + (pixel + 0.5) * scale;
                    int start = Math.Max(0, (int)(centre - reach + 0.5));
                    int count = Math.Min(length, (int)(centre + reach + 0.5)) - start;
                    var own = new double[count];
                    double sum = 0;
                    for (int tap = 0; tap < count; tap++)
                    {
                        double at = Math.Abs((tap + start - centre + 0.5) * (1 / stretch));
                        own[tap] = isCubic ? Bicubic(at) : Math.Max(0, 1 - at);
                        sum += own[tap];
                    }
                    Starts[pixel] = start;
                    Values[pixel] = new int[count];
                    for (int tap = 0; tap < count; tap++)
                    {
                        double scaled = own[tap] / sum * (1 << Precision);
                        Values[pixel][tap] = (int)(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
                    }
                }
            }

            private static double Bicubic(double x)
            {
                const double a = -0.5;
                if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
                return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
            }
        }
    }
}
